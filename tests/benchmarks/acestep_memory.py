"""Time and peak memory of full-size ACE-Step with random weights: two LoRA steps on 30 s of music.

    python tests/benchmarks/acestep_memory.py [--backend mlx|torch] [--bits 4|8] [--frames 750] [--quick]

The transformer has 24 layers of width 2048 (1.58 billion parameters), in float32, with --bits (MLX) quantised; a
condition of 300 rows, rank 64 on q, k, v and o, dropout 0.1, AdamW, checkpointing. The folder is written first: 4 GB on
the disk for a moment. Loading and training run in a process of their own, whose peak resident size counts, with the
interpreter and the framework (on Linux). --quick takes a small model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from musiclora.backends import lora_init, registry
from musiclora.backends.base import FAMILIES, OptimSpec
from musiclora.convert.models.acestep import read_acestep, tensor_shapes
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating
from musiclora.convert.models.acestep_write import write_acestep

STACK, QUICK = StackConfig(2048, 6144, 16, 8, 128), StackConfig(128, 256, 4, 2, 32)
CONDITION_ROWS, STEPS = 300, 2


def build(folder: Path, quick: bool, bits: int | None) -> None:
    """Write a model folder in bfloat16, one tensor in memory at a time; the condition encoder is small."""
    stack, layers = (QUICK, 2) if quick else (STACK, 24)
    config = AceStepConfig(stack, stack, alternating(layers), lyric_layers=1, timbre_layers=1)
    rng, shapes = np.random.default_rng(0), tensor_shapes(config)

    def read(names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
        for name in names:
            yield name, (rng.standard_normal(shapes[name], np.float32) * 0.02).astype(ml_dtypes.bfloat16)

    write_acestep(folder, config, read, "mlx" if bits else "hf", "bfloat16", bits=bits)


def train(name: str, folder: Path, frames: int) -> dict[str, float]:
    """Load the model and train; the last step counts, which has both moments."""
    family, start = FAMILIES["audio"], time.perf_counter()
    model = registry.get_backend(name).load(family, folder)
    loaded, config = time.perf_counter() - start, read_acestep(folder).config
    spec = family.of("acestep").lora
    model.inject_adapter(spec, lora_init.initial(spec, model.linear_shapes(), 0))
    rng = np.random.default_rng(1)
    latents, noise = rng.standard_normal((2, 1, frames, config.latent_dim), np.float32)
    batch = {
        "latents": latents,
        "noise": noise,
        "time": np.full(1, 0.5, np.float32),
        "valid": np.ones((1, frames), bool),
        "condition": rng.standard_normal((1, CONDITION_ROWS, config.encoder.hidden), np.float32),
        "condition_valid": np.ones((1, CONDITION_ROWS), bool),
        "context": rng.standard_normal((1, frames, 2 * config.latent_dim), np.float32),
    }
    training = model.start_training(OptimSpec(checkpointing=True))
    for _ in range(STEPS):
        start = time.perf_counter()
        result = training.step([batch], 1e-4)
    return {"load_s": loaded, "step_s": time.perf_counter() - start, "loss": result.loss / result.weight}


def worker(name: str, folder: Path, frames: int) -> None:
    found = train(name, folder, frames)
    backend = registry.get_backend(name)
    peak = backend.peak_memory() / 1e9
    if (status := Path("/proc/self/status")).exists() and backend.device().startswith("cpu"):
        # What the whole process held. getrusage would count the peak of the parent, which survives exec.
        peak = int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    head = {"backend": name, "device": backend.device(), "frames": frames, "peak_gb": peak}
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in {**head, **found}.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="mlx", choices=registry.BACKENDS)
    parser.add_argument("--bits", type=int, choices=[4, 8])
    parser.add_argument("--frames", type=int, default=750, help="latent frames, 25 a second")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.backend, options.worker, options.frames)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        build(folder, options.quick, options.bits)
        command = [sys.executable, __file__, "--backend", options.backend, "--worker", str(folder)]
        subprocess.run([*command, "--frames", str(options.frames)], check=True)


if __name__ == "__main__":
    main()
