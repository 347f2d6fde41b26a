"""Memory of an ACE-Step training step: counted by the plan, and measured with random weights of full size.

    python tests/benchmarks/acestep_memory_plan.py [--preset acestep-8gb] [--dtype bfloat16] [--layers 24]

On torch and Linux only. One process builds the transformer of the 2B model with the default adapter (rank 64), makes
one step at the preset's rows, window and checkpointing, and prints the peak resident size beside what
`audio.acestep.memory` counts; the difference is the framework and its libraries. Fewer layers make it quicker.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from musiclora.audio.acestep.memory import plan_memory
from musiclora.backends.base import OptimSpec
from musiclora.backends.lora_init import initial
from musiclora.convert.models.acestep import tensor_shapes
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating
from musiclora.training.config import resolve_config

STACK = StackConfig(2048, 6144, 16, 8, 128)
CONDITION_ROWS = 300
PARTS = ("decoder.", "null_condition_emb")


def random_tensors(config: AceStepConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Draw the transformer's tensors one by one."""
    rng = np.random.default_rng(0)
    for name, shape in tensor_shapes(config).items():
        if name.startswith(PARTS):
            yield name, rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)


def resident_bytes(key: str) -> int:
    """Read a size of this process, such as VmRSS or VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="acestep-8gb")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--layers", type=int, default=24)
    options = parser.parse_args()
    import torch

    from musiclora.backends.torch.acestep import TorchAceStep

    train = resolve_config(
        {"data_dir": "-", "output_dir": "-", "family": "audio", "architecture": "acestep"}, options.preset
    )
    rows, frames, checkpointing = train.batch_size or 1, train.max_seq_len, train.grad_checkpointing is not False
    config, spec = AceStepConfig(STACK, STACK, alternating(options.layers)), train.lora()
    started = resident_bytes("VmRSS")
    dtype = getattr(torch, options.dtype)
    model = TorchAceStep(config, random_tensors(config), dtype)
    model.inject_adapter(spec, initial(spec, model.linear_shapes(), 0))
    training = model.start_training(OptimSpec(checkpointing=checkpointing))
    rng = np.random.default_rng(1)
    shape = (rows, frames, config.latent_dim)
    batch = {
        "latents": rng.standard_normal(shape, np.float32),
        "noise": rng.standard_normal(shape, np.float32),
        "time": np.full(rows, 0.5, np.float32),
        "valid": np.ones(shape[:2], bool),
        "condition": rng.standard_normal((rows, CONDITION_ROWS, config.encoder.hidden), np.float32),
        "condition_valid": np.ones((rows, CONDITION_ROWS), bool),
        "context": rng.standard_normal((*shape[:2], 2 * config.latent_dim), np.float32),
    }
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the loading
    began = time.perf_counter()
    training.step([batch], 1e-4)
    seconds, peak = time.perf_counter() - began, resident_bytes("VmHWM")
    counted = plan_memory(
        config,
        spec,
        rows=rows,
        frames=frames,
        dtype_bytes=2 if options.dtype == "bfloat16" else 4,
        checkpointing=checkpointing,
    )
    row = {
        "preset": options.preset,
        "dtype": options.dtype,
        "layers": options.layers,
        "counted_gib": round(counted.total / 2**30, 2),
        "measured_gib": round(peak / 2**30, 2),
        "before_gib": round(started / 2**30, 2),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
