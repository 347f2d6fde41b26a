"""Our guided sampler against a plain loop: two passes a step, and the conditions computed anew in each.

    python tests/benchmarks/audio_sampling.py [--backend mlx|torch] [--frames 256] [--steps 8] [--repeats 3] [--quick]

Both use the same model, weights, noise and number of updates, and take turns in one process: read the ratio. The
results are compared too. The model has random weights, width 512, 4 blocks and the original's 4 text blocks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from musiclora import flow
from musiclora.backends import registry
from musiclora.backends.base import FAMILIES
from musiclora.convert.diffrhythm import DiffRhythmConfig, write_diffrhythm

GUIDANCE = 4.0


def build(folder: Path, config: DiffRhythmConfig) -> Path:
    rng = np.random.default_rng(0)
    tensors = ((n, rng.standard_normal(s, np.float32) * np.float32(0.02)) for n, s in config.tensor_shapes().items())
    write_diffrhythm(folder, config, tensors, "hf", "float32")
    return folder


def conditions(config: DiffRhythmConfig, frames: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    style = rng.standard_normal((2, 1, 512), np.float32) / np.float32(22.6)
    return {
        "text": rng.integers(0, config.text_num_embeds + 1, (1, frames)).astype(np.int32),
        "style": style[0],
        "negative_style": style[1],
        "start_time": np.zeros(1, np.float32),
    }


def plain(model: Any, given: dict[str, np.ndarray], noise: np.ndarray, steps: int) -> np.ndarray:
    """Guidance as one writes it first: p and q one after the other, nothing kept between the steps."""
    without = {**given, "style": given["negative_style"], "drop_audio": np.array(True), "drop_text": np.array(True)}
    state = noise
    for now, then in pairwise(np.linspace(0, 1, steps, dtype=np.float32)):
        p, q = (model.velocity(state, float(now), model.prepare(each), 0.0) for each in (given, without))
        state = state + (then - now) * (p + np.float32(GUIDANCE) * (p - q))
    return state


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    config = DiffRhythmConfig(64, 2, 2) if options.quick else DiffRhythmConfig(512, 4, 4)
    backend = registry.get_backend(options.backend)
    model = backend.load(FAMILIES["audio"], build(folder / "model", config))
    given = conditions(config, options.frames)
    noise = np.random.default_rng(2).standard_normal((1, options.frames, config.mel_dim), np.float32)
    runs = {
        "ours": lambda: flow.sample(model, model.prepare(given), noise, options.steps, GUIDANCE),
        "plain": lambda: plain(model, given, noise, options.steps),
    }
    ends = {name: run() for name, run in runs.items()}  # also warms both up
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "backend": backend.name, "device": backend.device(), "frames": options.frames, "steps": options.steps,
        "ours_s": round(medians["ours"], 3), "plain_s": round(medians["plain"], 3),
        "ratio": round(medians["plain"] / medians["ours"], 2),
        "largest_difference": float(np.abs(ends["ours"] - ends["plain"]).max()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="mlx", choices=registry.BACKENDS)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a toy model, to see that everything runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(options, Path(name))))


if __name__ == "__main__":
    main()
