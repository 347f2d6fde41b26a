"""Time and peak memory of `musiclora convert model` on ACE-Step with random bfloat16 weights.

    python tests/benchmarks/acestep_convert.py [FOLDER] [--full]

FOLDER (default: a temporary one) needs 4 GB of space, with --full 18 GB. The tensors have their published sizes, on
which the memory depends; the blocks are few (1 GB), with --full all of them (2,184,844,032 values, 4.4 GB). Each
conversion runs in a process of its own; memory is counted beyond the interpreter and its imports.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from musiclora.convert.models.acestep import tensor_shapes
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating
from musiclora.convert.models.acestep_write import write_acestep

CODE = """
import json, sys, time
from pathlib import Path
from musiclora.conversion.acestep import convert_acestep  # before the measurement
from musiclora.conversion.protocols import ModelConversion
from musiclora.progress import Reporter
def peak():  # kB; getrusage would count the parent's peak, which survives exec
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
options = json.loads(sys.argv[3])
before, start = peak(), time.perf_counter()
convert_acestep(ModelConversion(Path(sys.argv[1]), Path(sys.argv[2]), **options), Reporter())
print(time.perf_counter() - start, peak() - before)
"""
STACK = StackConfig(2048, 6144, 16, 8, 128)
# Source, destination and options; later ones read what earlier ones wrote.
RUNS = (
    ("hf", "diffusers", {"to": "diffusers"}),
    ("diffusers", "back", {"to": "hf"}),
    ("hf", "mlx", {"to": "mlx"}),
    ("hf", "float16", {"to": "mlx", "dtype": "float16"}),
    ("hf", "q8", {"to": "mlx", "bits": 8}),
    ("hf", "q4", {"to": "mlx", "bits": 4}),
)


def build(folder: Path, config: AceStepConfig) -> None:
    """Write the original's folder, one tensor in memory at a time."""
    rng, shapes = np.random.default_rng(0), tensor_shapes(config)

    def read(names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
        for name in names:
            yield name, (rng.standard_normal(shapes[name], np.float32) * 0.02).astype(ml_dtypes.bfloat16)

    write_acestep(folder, config, read, "hf", "bfloat16")


def measure(source: Path, destination: Path, options: dict[str, object]) -> dict[str, float]:
    """Convert in a new process; return seconds and MB of peak memory beyond the interpreter and its imports."""
    command = [sys.executable, "-c", CODE, str(source), str(destination), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, grown = done.stdout.split()
    return {"seconds": round(float(seconds), 1), "memory_mb": round(float(grown) / 1e3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    layers = (24, 8, 4) if options.full else (5, 2, 1)
    config = AceStepConfig(STACK, STACK, alternating(layers[0]), layers[1], layers[2])
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        build(folder / "hf", config)
        size = (folder / "hf" / "model.safetensors").stat().st_size
        for source, to, wanted in RUNS:
            found = measure(folder / source, folder / to, wanted)
            print(json.dumps({"from": source, **wanted, "source_gb": round(size / 1e9, 2), **found}), flush=True)
            if to != "diffusers":
                shutil.rmtree(folder / to)


if __name__ == "__main__":
    main()
