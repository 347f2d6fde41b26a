"""Time and peak memory of the full-size audio model with random weights: a training step, decoding, encoding.

    python tests/benchmarks/audio_memory.py train|decode|encode [--backend mlx|torch] [--frames N] [--quick]

train: one LoRA step of 512 frames with checkpointing on 1,109,315,648 parameters in float32 (needs 14 GB of memory and
5 GB of disk). decode: 320 frames in chunks of 128 with an overlap of 32. encode: as much audio, against real time. Each
works in a process of its own, so that writing the weights does not count. --quick takes small models.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.backends import lora_init, registry
from musiclora.backends.base import FAMILIES, OptimSpec
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, write_diffrhythm
from musiclora.convert.models.oobleck import OobleckConfig, write_oobleck

FRAMES = {"train": 512, "decode": 320, "encode": 320}


def build(what: str, quick: bool, folder: Path) -> None:
    rng = np.random.default_rng(0)

    def random(shapes: Mapping[str, tuple[int, ...]], size: float) -> Any:
        return ((n, rng.standard_normal(s, np.float32) * np.float32(size)) for n, s in shapes.items())

    if what == "train":
        config = DiffRhythmConfig(64, 2, 2) if quick else DiffRhythmConfig(2048, 16, 4)
        write_diffrhythm(folder, config, random(config.tensor_shapes(), 0.02), "hf", "float32")
    else:
        codec = OobleckConfig(8 if quick else 128, (1, 2, 4, 8, 16), (2, 4, 4, 8, 8))
        write_oobleck(folder, codec, random(codec.tensor_shapes(), 0.02), "hf", "float32")


def train(backend: Any, folder: Path, frames: int) -> dict[str, Any]:
    model, family = backend.load(FAMILIES["audio"], folder), FAMILIES["audio"]
    model.inject_adapter(family.lora, lora_init.initial(family.lora, model.linear_shapes(), 0))
    rng = np.random.default_rng(1)
    latents, noise = rng.standard_normal((2, 1, frames, 64), np.float32)
    batch = {
        "latents": latents,
        "noise": noise,
        "time": np.full(1, 0.5, np.float32),
        "valid": np.ones((1, frames), bool),
        "start_time": np.zeros(1, np.float32),
    }
    training = model.start_training(OptimSpec(checkpointing=True))
    start = time.perf_counter()
    result = training.step([batch], 2e-4)
    return {"step_s": time.perf_counter() - start, "loss": result.loss / result.weight}


def decode(backend: Any, folder: Path, frames: int) -> dict[str, Any]:
    codec = backend.load_codec(folder)
    latents = np.random.default_rng(1).standard_normal((1, frames, 64), np.float32)
    start = time.perf_counter()
    codec.decode(latents, 128, 32)
    return _against_real_time(start, frames, codec)


def encode(backend: Any, folder: Path, frames: int) -> dict[str, Any]:
    codec = backend.load_codec(folder)
    audio = np.random.default_rng(1).standard_normal((1, 2, frames * codec.hop), np.float32) * np.float32(0.1)
    start = time.perf_counter()
    codec.encode(audio)
    return _against_real_time(start, frames, codec)


def _against_real_time(start: float, frames: int, codec: Any) -> dict[str, Any]:
    seconds = time.perf_counter() - start
    audio = frames * codec.hop / codec.sample_rate
    return {"seconds": seconds, "audio_s": audio, "times_real_time": audio / seconds}


def worker(what: str, name: str, folder: Path, frames: int) -> None:
    backend = registry.get_backend(name)
    found = {"train": train, "decode": decode, "encode": encode}[what](backend, folder, frames)
    peak = backend.peak_memory() / 1e9
    if (status := Path("/proc/self/status")).exists() and backend.device().startswith("cpu"):
        # What the whole process held. getrusage would count the peak of the parent, which survives exec.
        peak = int(status.read_text().split("VmHWM:")[1].split()[0]) / 1e6
    head = {"what": what, "backend": name, "device": backend.device(), "frames": frames, "peak_gb": peak}
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in {**head, **found}.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=FRAMES)
    parser.add_argument("--backend", default="mlx", choices=registry.BACKENDS)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    frames = options.frames or FRAMES[options.what]
    if options.worker:
        worker(options.what, options.backend, options.worker, frames)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        build(options.what, options.quick, folder)
        command = [sys.executable, __file__, options.what, "--backend", options.backend, "--worker", str(folder)]
        subprocess.run([*command, "--frames", str(frames)], check=True)


if __name__ == "__main__":
    main()
