"""The way from noise to music: the times that training draws, and the Euler steps that generation takes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from musiclora.errors import ConfigError


class VelocityField(Protocol):
    """The part of a FlowModel that sampling calls."""

    def velocity(self, x: np.ndarray, time: float | np.ndarray, prepared: Any, guidance: float) -> np.ndarray: ...


def draw_times(rng: np.random.Generator, count: int) -> np.ndarray:
    """Times of the flow, float64 [count], logit-normal: the sigmoid of a standard normal.

    Source: Esser et al. 2024 (arXiv 2403.03206), section 3.1; DiffRhythm model/cfm.py.
    """
    return 1 / (1 + np.exp(-rng.standard_normal(count)))


def sample(
    model: VelocityField,
    prepared: Any,
    noise: np.ndarray,
    steps: int,
    guidance: float,
    known: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Latents that the flow leads to, by Euler's method on an even grid from 0 to 1.

    Args:
        model: its velocity is called at every grid point but the last.
        prepared: what the model's prepare returned.
        noise: float32 [B, T, C], where the way begins.
        steps: grid points, at least 2: there are steps - 1 updates.
        guidance: strength w of v = p + w (p - q).
        known: float32 [B, T, C], latents that are given.
        mask: bool [B, T], True where the result is taken; elsewhere known is.

    Returns:
        float32 [B, T, C].

    Raises:
        ConfigError: fewer than two grid points, or one of known and mask without the other.

    Source: DiffRhythm model/cfm.py: the known frames are put back after the last update only.
    """
    if steps < 2:
        raise ConfigError(f"{steps} steps: a way from noise to music has at least 2 grid points")
    if (known is None) != (mask is None):
        raise ConfigError("known latents need a mask that says what is made anew, and the reverse")
    grid = np.linspace(0, 1, steps, dtype=np.float32)
    state = np.array(noise, np.float32)
    for now, then in pairwise(grid):
        state = state + (then - now) * model.velocity(state, float(now), prepared, guidance)
    if known is None or mask is None:
        return state
    return np.where(mask[:, :, None], state, np.asarray(known, np.float32))
