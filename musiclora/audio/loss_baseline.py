"""Closed-form linear baseline of the flow-matching loss, to tell whether a base knows the recordings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musiclora.backends.base import Arrays


def baseline_loss(batches: Sequence[Arrays]) -> float:
    """Compute the loss of the best velocity that is a multiple of x_t, the noisy latents.

    Linear regression of latents - noise on x_t, for independent latents of variance s, gives the factor
    (t s - (1 - t)) / (t^2 s + (1 - t)^2). A network that has learnt anything about music stays well below this loss.
    """
    variance = latent_size(batches) ** 2
    total = weight = 0.0
    for batch in batches:
        t, latents, noise = batch["time"][:, None, None], batch["latents"], batch["noise"]
        slope = (t * variance - (1 - t)) / (t * t * variance + (1 - t) ** 2)
        error = np.square(latents - noise - slope * (t * latents + (1 - t) * noise))
        total += float((error * batch["valid"][:, :, None]).sum(dtype=np.float64))
        weight += float(batch["valid"].sum()) * latents.shape[2]
    return total / max(weight, 1.0)


def latent_size(batches: Sequence[Arrays]) -> float:
    """Compute the root mean square of the latents, which is about 1 for music that a codec knows."""
    squares = values = 0.0
    for batch in batches:
        squares += float(np.square(batch["latents"]).sum(dtype=np.float64))
        values += float(batch["valid"].sum()) * batch["latents"].shape[2]
    return float((squares / max(values, 1.0)) ** 0.5)
