"""Rectified-flow sampling: logit-normal training times and the Euler ODE solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from musiclora.errors import ConfigError


class VelocityField(Protocol):
    """Velocity field of a FlowModel, which the solver integrates."""

    def velocity(self, x: np.ndarray, time: float | np.ndarray, prepared: Any, guidance: float) -> np.ndarray: ...


def draw_times(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw training times in (0, 1), float64 [count], logit-normal: the sigmoid of a standard normal.

    Source: Esser et al. 2024 (arXiv 2403.03206), section 3.1; DiffRhythm model/cfm.py.
    """
    return 1 / (1 + np.exp(-rng.standard_normal(count)))


def integrate(
    velocity: Callable[[np.ndarray, float], np.ndarray], noise: np.ndarray, times: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Integrate a velocity field by Euler's method.

    Args:
        velocity: of a state float32 [B, T, C] at a time.
        noise: float32 [B, T, C], the state at the first time.
        times: grid points, rising; the velocity is computed at all but the last.

    Returns:
        float32 [B, T, C], the state at the last time.
    """
    state: np.ndarray = np.array(noise, np.float32)
    for now, then in pairwise(times):
        state = state + np.float32(then - now) * velocity(state, float(now))
    return state


def sample(
    model: VelocityField,
    prepared: Any,
    noise: np.ndarray,
    steps: int,
    guidance: float,
    known: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Integrate the flow from noise (time 0) to latents (time 1) by Euler's method on an even grid.

    Args:
        model: velocity field, evaluated at every grid point but the last.
        prepared: result of the model's `prepare`.
        noise: float32 [B, T, C], the initial state.
        steps: ODE grid points, at least 2 (steps - 1 updates).
        guidance: strength w of classifier-free guidance, v = p + w (p - q) for conditional p and unconditional q.
        known: float32 [B, T, C], given latents for inpainting.
        mask: bool [B, T], True where latents are generated; elsewhere they are `known`.

    Returns:
        float32 [B, T, C].

    Raises:
        ConfigError: fewer than two grid points, or one of known and mask without the other.

    Source: DiffRhythm model/cfm.py, which restores the known frames after the last update only.
    """
    if steps < 2:
        raise ConfigError(f"{steps} steps: a way from noise to music has at least 2 grid points")
    if (known is None) != (mask is None):
        raise ConfigError("known latents need a mask of what is generated, and the reverse")
    grid = np.linspace(0, 1, steps, dtype=np.float32)
    state = integrate(lambda x, time: model.velocity(x, time, prepared, guidance), noise, grid)
    if known is None or mask is None:
        return state
    return np.where(mask[:, :, None], state, np.asarray(known, np.float32))
