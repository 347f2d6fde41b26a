"""Our MLX generation against mlx-lm's generate_step, both with the same BLAS.

    python tests/benchmarks/mlx_generation.py [--json FILE] [--quick]

GPT-2 of width 512, 6 layers, 8 heads, 1024 positions; a prompt of 16 tokens, 256 new ones, temperature 1. mlx-lm
runs its LoRALinear layers of rank 16 as they are after training, and once more fused; ours has the same adapter and
fuses a copy by itself, inside the time measured. Every figure is the median over new processes, which take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mlx_training import RANK, SCALE, checkpoint

PROMPT = 16
CONTENDERS = {"mlx-lm": 1, "mlx-lm fused": 1, "ours": 1, "ours, batch 8": 8}


def our_run(folder: Path, vocabulary: int, batch: int, new: int) -> Callable[[], None]:
    from musiclora.backends import lora_init
    from musiclora.backends.base import FAMILIES, SamplingSpec
    from musiclora.backends.mlx.backend import BACKEND
    from musiclora.convert.adapters.lora import LoraSpec

    model = BACKEND.load(FAMILIES["symbolic"], folder)
    spec = LoraSpec(RANK, RANK * SCALE, 0.0, ("c_attn", "c_proj", "c_fc"))
    model.inject_adapter(spec, lora_init.initial(spec, model.linear_shapes(), 0))
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, vocabulary, (batch, PROMPT)).astype(np.int32)
    draws = rng.random((new, batch), np.float32)
    return lambda: _done(model.generate(prompts, SamplingSpec(), draws), batch * new)


def _done(found: np.ndarray, expected: int) -> None:
    if found.size != expected:
        raise SystemExit(f"{found.size} tokens instead of {expected}")


def their_run(folder: Path, vocabulary: int, fused: bool, new: int) -> Callable[[], None]:
    from musiclora.backends.mlx import blas

    blas.status()  # the same BLAS for both
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.models.gpt2 import Model, ModelArgs
    from mlx_lm.sample_utils import make_sampler
    from mlx_lm.tuner.lora import LoRALinear

    model = Model(ModelArgs.from_dict(json.loads((folder / "config.json").read_text())))
    model.load_weights(str(folder / "model.safetensors"))
    for layer in model.layers:
        for owner, name in ((layer.attn, "c_attn"), (layer.attn, "c_proj"), (layer.mlp, "c_fc"), (layer.mlp, "c_proj")):
            adapted = LoRALinear.from_base(getattr(owner, name), r=RANK, scale=SCALE)
            setattr(owner, name, adapted.fuse() if fused else adapted)
    model.eval()
    mx.eval(model.parameters())
    prompt = mx.array(np.random.default_rng(0).integers(0, vocabulary, PROMPT))
    sampler = make_sampler(temp=1.0)

    def run() -> None:
        count = sum(1 for _ in generate_step(prompt, model, max_tokens=new, sampler=sampler))
        _done(np.zeros(count), new)

    return run


def worker(contender: str, folder: Path, vocabulary: int, new: int) -> None:
    if contender.startswith("ours"):
        run = our_run(folder, vocabulary, CONTENDERS[contender], new)
    else:
        run = their_run(folder, vocabulary, contender.endswith("fused"), new)
    run()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(seconds)}))


def measured(contender: str, folder: Path, vocabulary: int, new: int) -> float:
    command = [sys.executable, __file__, "--worker", contender, "--folder", str(folder)]
    command += ["--vocab", str(vocabulary), "--new", str(new)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def compare(vocabulary: int, repeats: int, new: int) -> dict[str, Any]:
    """Tokens a second over all rows, medians over processes that take turns."""
    found: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as root:
        folders = {layout: checkpoint(vocabulary, layout, Path(root)) for layout in ("mlx", "hf")}
        for _ in range(repeats):
            for name in CONTENDERS:
                folder = folders["hf" if name.startswith("ours") else "mlx"]
                found[name].append(measured(name, folder, vocabulary, new))
    speeds = {name: CONTENDERS[name] * new / statistics.median(seconds) for name, seconds in found.items()}
    return {"vocabulary": vocabulary, "tokens_per_second": speeds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="292 tokens, 64 new ones, one process each")
    for name, kind in (("worker", str), ("folder", Path), ("vocab", int), ("new", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.folder, options.vocab, options.new)
        return
    rows = []
    for vocabulary in (292,) if options.quick else (292, 30_000):
        row = compare(vocabulary, 1 if options.quick else 3, 64 if options.quick else 256)
        rows.append(row)
        speeds = row["tokens_per_second"]
        print(f"{vocabulary} tokens: " + ", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items()))
        print(
            f"  ours / mlx-lm {speeds['ours'] / speeds['mlx-lm']:.2f}, "
            f"ours / mlx-lm fused {speeds['ours'] / speeds['mlx-lm fused']:.2f}, "
            f"batch 8 / batch 1 {speeds['ours, batch 8'] / speeds['ours']:.2f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
