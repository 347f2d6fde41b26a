"""Our guided sampler against plain loops: two passes a step, and the conditions computed again in each.

    python tests/benchmarks/audio_sampling.py [--backend mlx|torch] [--width 256] [--depth 4] [--frames 256]
        [--steps 8] [--repeats 3] [--quick]

All use the same model, weights, noise and number of updates, and take turns in one process: read the ratios. The
results are compared too. `plain` calls the network itself; `interface` calls prepare and velocity without guidance, as
one would who does not know that prepare also makes what guidance needs. The model has random weights and the
original's 4 text blocks. What is saved is the text, so the gain falls with the width and number of the other blocks: at
the original's full size (2048, 16) a CPU that is busy with products gains next to nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from musiclora import flow
from musiclora.backends import registry
from musiclora.backends.base import FAMILIES
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, write_diffrhythm

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


Network = Callable[[np.ndarray, float, dict[str, np.ndarray]], np.ndarray]


def torch_network(model: Any) -> Network:
    import torch

    def call(x: np.ndarray, time: float, given: dict[str, np.ndarray]) -> np.ndarray:
        tensors = {key: torch.from_numpy(value) for key, value in given.items()}
        tensors["style_prompt"] = tensors.pop("style")
        with torch.inference_mode():
            return model.module(torch.from_numpy(x), torch.zeros(x.shape), time=torch.tensor(time), **tensors).numpy()

    return call


def mlx_network(model: Any) -> Network:
    import mlx.core as mx

    from musiclora.backends.mlx import dit

    def call(x: np.ndarray, time: float, given: dict[str, np.ndarray]) -> np.ndarray:
        made = dit.conditions({k: mx.array(v) for k, v in given.items()}, model.weights, None, model.config)
        return np.array(dit.velocity(mx.array(x), mx.full(len(x), time), made, model.weights, None, model.config))

    return call


NETWORKS = {"torch": torch_network, "mlx": mlx_network}


def plain(network: Network, given: dict[str, np.ndarray], noise: np.ndarray, steps: int) -> np.ndarray:
    """Guidance as one writes it first: p and q one after the other, nothing kept between the steps."""
    shared = {"start_time": given["start_time"]}
    ways = [
        {**shared, "text": given["text"], "style": given["style"]},
        {**shared, "text": np.zeros_like(given["text"]), "style": given["negative_style"]},
    ]
    state = noise
    for now, then in pairwise(np.linspace(0, 1, steps, dtype=np.float32)):
        p, q = (network(state, float(now), way) for way in ways)
        state = state + (then - now) * (p + np.float32(GUIDANCE) * (p - q))
    return state


def by_interface(model: Any, given: dict[str, np.ndarray], noise: np.ndarray, steps: int) -> np.ndarray:
    """The same through prepare and velocity."""

    def call(x: np.ndarray, time: float, way: dict[str, np.ndarray]) -> np.ndarray:
        return model.velocity(x, time, model.prepare(way), 0.0)

    return plain(call, given, noise, steps)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    width, depth = (64, 2) if options.quick else (options.width, options.depth)
    config = DiffRhythmConfig(width, depth, 2 if options.quick else 4)
    backend = registry.get_backend(options.backend)
    model = backend.load(FAMILIES["audio"], build(folder / "model", config))
    network, given = NETWORKS[backend.name](model), conditions(config, options.frames)
    noise = np.random.default_rng(2).standard_normal((1, options.frames, config.mel_dim), np.float32)
    runs = {
        "ours": lambda: flow.sample(model, model.prepare(given), noise, options.steps, GUIDANCE),
        "plain": lambda: plain(network, given, noise, options.steps),
        "interface": lambda: by_interface(model, given, noise, options.steps),
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
        "backend": backend.name,
        "device": backend.device(),
        "width": width,
        "depth": depth,
        "frames": options.frames,
        "steps": options.steps,
        **{f"{name}_s": round(value, 3) for name, value in medians.items()},
        "ratio": round(medians["plain"] / medians["ours"], 2),
        "interface_ratio": round(medians["interface"] / medians["ours"], 2),
        "largest_difference": max(float(np.abs(ends["ours"] - ends[name]).max()) for name in ("plain", "interface")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="mlx", choices=registry.BACKENDS)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="a toy model, to see that everything runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(options, Path(name))))


if __name__ == "__main__":
    main()
