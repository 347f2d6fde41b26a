"""Shared parts of both trainings of the bundled audio model: recordings, checkpoints, the clock."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from musiclora.music.wav import read_wav


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def read_folder(*folders: Path) -> dict[str, np.ndarray]:
    """Every WAV file of the folders, float32 [2, N], by `folder/stem`."""
    found = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.wav"))):
        audio, _ = read_wav(path)
        found[f"{path.parent.name}/{path.stem}"] = np.ascontiguousarray(audio.T)
    return found


class Clock:
    """Seconds of one processor spent on training, kept over restarts, and the learning rate that follows from them.

    Processor time, so that other work on the machine delays a training but does not shorten it.
    """

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self.total, self.before, self.started = 60 * minutes, spent, time.process_time()

    @property
    def spent(self) -> float:
        return self.before + time.process_time() - self.started

    @property
    def share(self) -> float:
        return min(1.0, self.spent / self.total)

    def rate(self, step: int, peak: float, warmup: int = 50) -> float:
        """Linear warm-up by steps, then half a cosine by time down to a hundredth."""
        wave = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.share))
        return peak * wave * min(1.0, (step + 1) / warmup)


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace a checkpoint, whole or not at all."""
    temporary = path.with_suffix(".new")
    torch.save(state, temporary)
    temporary.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """The checkpoint (our own, in this run's folder), or None before the first."""
    return torch.load(path, weights_only=True) if path.is_file() else None
