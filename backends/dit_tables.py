"""Constants and tables of DiffRhythm's diffusion transformer, shared by all backends (numpy)."""

from __future__ import annotations

from functools import cache

import numpy as np

EPS = 1e-6  # added under the root in every norm
GROUPS = 16  # of channels in the position convolutions
SCALE = 1000.0  # multiplies a time in [0, 1] before its sinusoids
BASE = 10000.0  # ratio of the longest to the shortest wave length
_WAVES = 128


@cache
def waves() -> np.ndarray:
    """Compute the frequencies of a time's sinusoids, float32 [128], rounded as in the original."""
    exponents = np.arange(_WAVES, dtype=np.float32) * np.float32(-np.log(BASE) / (_WAVES - 1))
    return np.exp(exponents.astype(np.float64)).astype(np.float32)


@cache
def positions(length: int, width: int) -> np.ndarray:
    """Compute the sinusoidal position table, cosines before sines, float32 [length, width]."""
    exponents = (np.arange(0, width, 2, dtype=np.float32) / np.float32(width)).astype(np.float64)
    frequency = np.float32(1) / (BASE**exponents).astype(np.float32)
    angle = np.arange(length, dtype=np.float32)[:, None] * frequency
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


@cache
def angles(length: int, width: int) -> np.ndarray:
    """Compute the angles of the rotary embedding, float32 [length, width / 2] (Su et al. 2021, arXiv 2104.09864)."""
    frequency = (BASE ** (-np.arange(0, width, 2) / width)).astype(np.float32)
    return np.arange(length, dtype=np.float32)[:, None] * frequency
