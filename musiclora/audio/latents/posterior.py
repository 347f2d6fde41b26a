"""Samples from the codec's posterior."""

from __future__ import annotations

import numpy as np


def draw_posterior(mean: np.ndarray, scale: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw mean + (softplus(scale) + 1e-4) noise.

    Args:
        mean, scale: float32 [T, C], as `Codec.encode` returns them for a row.
        rng: of the noise.

    Returns:
        float32 [T, C].
    """
    deviation = np.logaddexp(np.float32(0), scale) + np.float32(1e-4)
    drawn: np.ndarray = mean + deviation * rng.standard_normal(mean.shape, np.float32)
    return drawn
