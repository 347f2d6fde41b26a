"""Time and memory of `musiclora convert model` on a full-size DiffRhythm, against a copy of the file with fsync.

    python tests/benchmarks/conversion.py [FOLDER] [--source pt] [--repeats 3]

FOLDER (default: a temporary one) needs 7 GB of space. The checkpoint has random float16 weights; with --source pt it is
a file of torch.save, as the original comes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from musiclora.convert.models.diffrhythm import DiffRhythmConfig, write_diffrhythm

CODE = """
import sys, time
from pathlib import Path
import musiclora.conversion.diffrhythm  # before the measurement
from musiclora.conversion.model import convert_model
def peak():  # kB; getrusage would count the parent's peak, which survives exec
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before, start = peak(), time.perf_counter()
convert_model(Path(sys.argv[1]), Path(sys.argv[2]), "mlx")
print(time.perf_counter() - start, peak() - before)
"""

TORCH_CODE = """
import sys, torch
from safetensors.torch import load_file
state = {name: tensor.clone() for name, tensor in load_file(sys.argv[1]).items()}  # each in a storage of its own
torch.save({"model_state_dict": state}, sys.argv[2])
"""


def build(folder: Path) -> Path:
    """Write the checkpoint: 1,109,315,648 parameters."""
    config = DiffRhythmConfig(2048, 16, 4)
    rng = np.random.default_rng(0)
    tensors = (
        (name, (rng.standard_normal(s, np.float32) * 0.05).astype(np.float16))
        for name, s in config.tensor_shapes().items()
    )
    write_diffrhythm(folder / "source", config, tensors, "hf", "float16")
    return folder / "source" / "model.safetensors"


def as_torch(source: Path) -> Path:
    """The same tensors as a .pt file in the place of source; a process of its own, whose memory goes with it."""
    target = source.with_name("cfm_model.pt")
    subprocess.run([sys.executable, "-c", TORCH_CODE, str(source), str(target)], check=True)
    source.unlink()
    return target


def copy_seconds(source: Path, target: Path) -> float:
    start = time.perf_counter()
    with source.open("rb") as first, target.open("wb") as second:
        shutil.copyfileobj(first, second, 1 << 22)
        second.flush()
        os.fsync(second.fileno())
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


def convert_seconds(source: Path, target: Path) -> tuple[float, float]:
    """Seconds, and MB of peak memory beyond the interpreter and its imports."""
    command = [sys.executable, "-c", CODE, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(target)
    seconds, grown = done.stdout.split()
    return float(seconds), float(grown) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--source", choices=("safetensors", "pt"), default="safetensors")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        source = build(folder)
        if options.source == "pt":
            source = as_torch(source)
        runs = []
        for _ in range(options.repeats):
            copied = copy_seconds(source, folder / "copy")
            seconds, memory = convert_seconds(source, folder / "out")
            runs.append({"copy_s": copied, "convert_s": seconds, "ratio": seconds / copied, "memory_mb": memory})
            print(json.dumps(runs[-1]), file=sys.stderr)
    medians = {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
    print(json.dumps({"source": options.source, "file_gb": 2.22, "repeats": options.repeats, **medians}))


if __name__ == "__main__":
    main()
