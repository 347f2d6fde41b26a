"""Folders of short recordings for listening tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from musiclora.music.wav import write_wav

RATE = 44100


def melody(seed: int, seconds: float, level: float = 0.2) -> np.ndarray:
    """Return decaying notes of half a second, float64 [samples]."""
    rng = np.random.default_rng(seed)
    notes = []
    for _ in range(int(seconds * 2)):
        time = np.arange(RATE // 2) / RATE
        frequency = 220 * 2 ** (rng.integers(0, 24) / 12)
        notes.append(np.sin(2 * np.pi * frequency * time) * np.exp(-3 * time))
    return level * np.concatenate(notes)


def write_folders(root: Path, count: int = 2, seconds: float = 4.0) -> list[str]:
    """Write base/, adapted/ and real/ with recordings of different loudness; return options of `listen make`."""
    options = []
    for number, condition in enumerate(("base", "adapted", "real")):
        folder = root / condition
        folder.mkdir()
        for i in range(count + (condition == "real")):
            audio = melody(10 * number + i, seconds, 0.05 * (1 + number + i))
            write_wav(folder / f"secret-{condition}-{i}.wav", audio[:, None], RATE)
        options += [f"--{condition}-dir", str(folder)]
    return options
