"""Random melodies as sound, for tests of the audio copy meter."""

from __future__ import annotations

from pathlib import Path

import numpy as np

RATE = 22050  # Hz


def sung(seed: int, seconds: float = 24.0, shift: int = 0) -> np.ndarray:
    """Play random notes of random lengths with four harmonics, float32 [seconds * 22050]; shift in semitones."""
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE:
        time = np.arange(int(rng.choice([0.2, 0.3, 0.45]) * RATE)) / RATE
        pitch = 220 * 2 ** ((int(rng.integers(0, 24)) + shift) / 12)
        tone = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 5))
        parts.append(tone * np.exp(-3 * time))
    return np.concatenate(parts)[: int(seconds * RATE)].astype(np.float32)


def write_sung(folder: Path, seeds: list[int], seconds: float = 12.0) -> Path:
    """Write `<folder>/<seed>.wav` of random melodies."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        soundfile.write(folder / f"{seed}.wav", sung(seed, seconds), RATE)
    return folder
