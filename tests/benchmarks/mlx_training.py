"""Our MLX training step against mlx-lm's GPT-2 with its LoRALinear and compiled step, both with the same BLAS.

    python tests/benchmarks/mlx_training.py [--preset band] [--json FILE] [--quick] [--cpu-time]

GPT-2 of width 512, 6 layers, 8 heads, 1024 positions; rows of 1024 tokens; LoRA of rank 16, scale 2, dropout 0.05 on
all four projections; AdamW with bias correction. `--preset band` takes the size of music-small-800k in its place: 768
wide, 12 layers, 12 heads, 55,028 tokens (128 M parameters), batch 1; ours divides the attention logits by the layer's
number, mlx-lm cannot. Every figure is the median over new processes, which take turns. On a machine that others use
at the same time, `--cpu-time` gives one thread to each and counts its own seconds only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"n_positions": 1024, "n_embd": 512, "n_layer": 6, "n_head": 8, "n_inner": 2048}
BAND = {"n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": 3072}
LARGE = 55_028  # the vocabulary of the preset `band`, whose sizes are BAND
LENGTH, RANK, SCALE, DROPOUT = 1024, 16, 2.0, 0.05
LAYOUTS = {"mlx-lm": "mlx", "ours": "hf"}  # the contenders and the layouts that they load


def tokens(vocabulary: int, batch: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocabulary, (batch, LENGTH)).astype(np.int32)


def checkpoint(vocabulary: int, layout: str, root: Path) -> Path:
    from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint

    large = vocabulary == LARGE
    sizes = BAND if large else SIZES
    config = Gpt2Config(vocabulary, **sizes, scale_attn_by_inverse_layer_idx=large and layout == "hf")
    folder = root / f"{layout}-{vocabulary}"
    write_checkpoint(folder, config, fresh_tensors(config, 0), layout)
    return folder


def our_step(folder: Path, vocabulary: int, batch: int) -> Callable[[], float]:
    from musiclora.backends import lora_init
    from musiclora.backends.base import FAMILIES, OptimSpec
    from musiclora.backends.mlx.backend import BACKEND
    from musiclora.convert.adapters.lora import LoraSpec

    model = BACKEND.load(FAMILIES["symbolic"], folder)
    spec = LoraSpec(RANK, RANK * SCALE, DROPOUT, ("c_attn", "c_proj", "c_fc"))
    model.inject_adapter(spec, lora_init.initial(spec, model.linear_shapes(), 0))
    training = model.start_training(OptimSpec())
    mask = np.ones((batch, LENGTH), bool)
    mask[:, 0] = False
    rows = {"tokens": tokens(vocabulary, batch), "loss_mask": mask}

    def step() -> float:
        result = training.step([rows], 2e-4)
        return result.loss / result.weight

    return step


def their_step(folder: Path, vocabulary: int, batch: int) -> Callable[[], float]:
    """The step of mlx_lm.tuner.trainer.train, without accumulation and reports."""
    from functools import partial

    from musiclora.backends.mlx import blas

    blas.status()  # the same BLAS for both
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx_lm.models.gpt2 import Model, ModelArgs
    from mlx_lm.tuner.lora import LoRALinear
    from mlx_lm.tuner.trainer import default_loss

    model = Model(ModelArgs.from_dict(json.loads((folder / "config.json").read_text())))
    model.load_weights(str(folder / "model.safetensors"))
    model.freeze()
    mx.random.seed(0)
    for layer in model.layers:
        for owner, name in ((layer.attn, "c_attn"), (layer.attn, "c_proj"), (layer.mlp, "c_fc"), (layer.mlp, "c_proj")):
            setattr(owner, name, LoRALinear.from_base(getattr(owner, name), r=RANK, dropout=DROPOUT, scale=SCALE))
    optimizer = optim.AdamW(learning_rate=2e-4, bias_correction=True)
    value_and_grad = nn.value_and_grad(model, default_loss)
    state = [model.state, optimizer.state, mx.random.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def compiled(rows: Any, lengths: Any) -> Any:
        (loss, count), grad = value_and_grad(model, rows, lengths)
        optimizer.update(model, grad)
        return loss, count

    model.train()
    rows, lengths = mx.array(tokens(vocabulary, batch)), mx.array([[0, LENGTH]] * batch)

    def step() -> float:
        loss, _ = compiled(rows, lengths)
        mx.eval(state, loss)
        return loss.item()

    return step


def worker(contender: str, folder: Path, vocabulary: int, batch: int, steps: int, cpu_time: bool) -> None:
    clock = time.process_time if cpu_time else time.perf_counter
    step = (our_step if contender == "ours" else their_step)(folder, vocabulary, batch)
    losses, seconds = [step() for _ in range(min(2, steps))], []
    for _ in range(steps):
        start = clock()
        losses.append(step())
        seconds.append(clock() - start)
    import mlx.core as mx

    on_cpu = mx.default_device().type == mx.cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if on_cpu else mx.get_peak_memory()
    print(json.dumps({"seconds": statistics.median(seconds), "peak": peak, "loss": losses[-1]}))


def measured(contender: str, folder: Path, case: tuple[int, int], steps: int, cpu_time: bool) -> dict[str, float]:
    vocabulary, batch = case
    arguments = ["--worker", contender, "--folder", folder, "--vocab", vocabulary, "--batch", batch, "--steps", steps]
    command = [sys.executable, __file__, *map(str, arguments), *["--cpu-time"] * cpu_time]
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1") if cpu_time else {}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **threads})
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: tuple[int, int], repeats: int, steps: int, cpu_time: bool) -> dict[str, Any]:
    """Medians over processes that take turns, so that a busy minute hits both."""
    vocabulary, batch = case
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in LAYOUTS}
    with tempfile.TemporaryDirectory() as root:
        folders = {name: checkpoint(vocabulary, layout, Path(root)) for name, layout in LAYOUTS.items()}
        for _ in range(repeats):
            for name in LAYOUTS:
                runs[name].append(measured(name, folders[name], case, steps, cpu_time))
    row: dict[str, Any] = {"vocabulary": vocabulary, "batch": batch}
    for name, found in runs.items():
        row[name] = {
            "tokens_per_second": batch * LENGTH / statistics.median(r["seconds"] for r in found),
            "peak_gb": statistics.median(r["peak"] for r in found) / 1e9,
            "loss": found[-1]["loss"],
        }
    row["speed_ratio"] = row["ours"]["tokens_per_second"] / row["mlx-lm"]["tokens_per_second"]
    row["memory_ratio"] = row["ours"]["peak_gb"] / row["mlx-lm"]["peak_gb"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="one case, few processes and steps")
    parser.add_argument("--preset", choices=("default", "band"), default="default", help="size of the model")
    parser.add_argument("--cpu-time", action="store_true", help="one thread each, and count its seconds only")
    for name, kind in (("worker", str), ("folder", Path), ("vocab", int), ("batch", int), ("steps", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.folder, options.vocab, options.batch, options.steps, options.cpu_time)
        return
    band = options.preset == "band"
    cases = [(292, 1)] if options.quick else [(v, b) for v in (292, 30_000) for b in (1, 4)]
    cases = [(LARGE, 1)] if band else cases
    repeats, steps = (1 if band else 2, 1 if band else 3) if options.quick else (3, 3)
    rows = []
    print(f"{'tokens':>7} {'batch':>5} | {'mlx-lm tok/s':>12} {'GB':>5} | {'ours tok/s':>10} {'GB':>5} | speed memory")
    for vocabulary, batch in cases:
        row = compare((vocabulary, batch), repeats, steps, options.cpu_time)
        rows.append(row)
        theirs, ours = row["mlx-lm"], row["ours"]
        print(
            f"{vocabulary:7} {batch:5} | {theirs['tokens_per_second']:12.0f} {theirs['peak_gb']:5.2f} | "
            f"{ours['tokens_per_second']:10.0f} {ours['peak_gb']:5.2f} | "
            f"{row['speed_ratio']:5.2f} {row['memory_ratio']:6.2f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
