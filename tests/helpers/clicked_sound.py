"""Constructed music, with clicks at known times."""

from __future__ import annotations

import numpy as np

RATE = 44100
TIMES = (0.5, 1.3, 2.05, 2.11, 3.7, 5.4)


def melody(seconds=6.0, rate=RATE, seed=0):
    """Struck tones with overtones and a little noise, 3 a second."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    beat = (time * 3).astype(int)
    pitch = 220 * 2 ** (rng.integers(0, 24, beat.max() + 1) / 12)
    phase = np.cumsum(pitch[beat]) / rate
    sound = sum(0.5**k * np.sin(2 * np.pi * (k + 1) * phase) for k in range(6))
    rise = np.minimum(1, ((time * 3) % 1) * 30)  # an attack of 10 ms
    return 0.15 * sound * rise * np.exp(-5 * ((time * 3) % 1)) + 1e-4 * rng.normal(size=len(time))


def with_clicks(sound, times, height, rate=RATE):
    clicked = sound.copy()
    for time in times:
        clicked[int(time * rate)] += height
    return clicked
