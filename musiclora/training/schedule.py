"""Learning-rate schedules: linear warm-up, then cosine, linear or constant."""

from __future__ import annotations

import math

from musiclora.errors import ConfigError

SCHEDULES = ("cosine", "linear", "constant")


def learning_rate(kind: str, peak: float, step: int, total: int, warmup: int) -> float:
    """Compute the learning rate of one optimiser step.

    Args:
        kind: shape after the warm-up: cosine to 0 (Loshchilov and Hutter 2016, arXiv 1608.03983), linear
            to 0, or constant.
        peak: the rate at the end of the warm-up.
        step: 0 for the first step.
        total: steps of the whole run.
        warmup: steps of linear rise; the first step already has peak / warmup.

    Raises:
        ConfigError: kind is not one of SCHEDULES.
    """
    if kind not in SCHEDULES:
        raise ConfigError(f"--lr-schedule {kind!r} is unknown; there are {', '.join(SCHEDULES)}")
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * decay_factor(kind, progress)


def decay_factor(kind: str, progress: float) -> float:
    """Compute the share of the peak that is left at a progress in [0, 1] after the warm-up."""
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if kind == "linear" else 1.0
