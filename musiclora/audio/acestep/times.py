"""Training times of ACE-Step by kind of checkpoint, in the interface's time from noise (0) to data (1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np

from musiclora.convert.models.acestep_config import AceStepConfig

TURBO_STEPS, TURBO_SHIFT = 8, 3.0
DROP_RATE = 0.15  # of training examples of base and sft whose whole condition is replaced by the null condition
_GUIDED_KINDS = ("base", "sft")


class TrainingTimes(Protocol):
    """Distribution of training times."""

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw times, float64 [count]."""

    def at(self, share: float) -> float:
        """Return the time below which this share of the times lies, for a share in (0, 1)."""


def shift_time(t: float | np.ndarray, shift: float) -> float | np.ndarray:
    """Shift ACE-Step's time towards noise (1): t' = s t / (1 + (s - 1) t).

    Source: Esser et al. 2024 (arXiv 2403.03206), eq. 23.
    """
    return shift * t / (1 + (shift - 1) * t)


@dataclass(frozen=True)
class LargerLogitNormal:
    """Times of base and sft: the noisier of two draws of sigmoid(mu + sigma n).

    Attributes:
        mu, sigma: of ACE-Step's time, which is 1 - t of the interface; from the configuration.
    """

    mu: float
    sigma: float

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw times, float64 [count]."""
        both = self.mu + self.sigma * rng.standard_normal((count, 2))
        times: np.ndarray = 1 / (1 + np.exp(both.max(axis=1)))
        return times

    def at(self, share: float) -> float:
        """Return a quantile: the larger of two draws lies below t with the square of one draw's probability."""
        quantile = NormalDist(self.mu, self.sigma).inv_cdf(math.sqrt(1 - share))
        return 1 / (1 + math.exp(quantile))


@dataclass(frozen=True)
class TurboTimes:
    """Times of turbo: uniform over those of its inference, eight steps at shift 3."""

    @property
    def values(self) -> np.ndarray:
        """The times, rising, float64 [8]: 0 to 0.7."""
        times: np.ndarray = 1 - np.asarray(shift_time(np.arange(TURBO_STEPS, 0, -1) / TURBO_STEPS, TURBO_SHIFT))
        return times

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw times, float64 [count]."""
        drawn: np.ndarray = self.values[rng.integers(0, TURBO_STEPS, count)]
        return drawn

    def at(self, share: float) -> float:
        """Return the time whose step holds this share."""
        return float(self.values[min(TURBO_STEPS - 1, int(share * TURBO_STEPS))])


@dataclass(frozen=True)
class Objective:
    """Training objective of a checkpoint.

    Attributes:
        times: distribution of the training times.
        drop_rate: share of the examples that lose their condition.
        note: remark for the user; empty where the checkpoint says what it is.
    """

    times: TrainingTimes
    drop_rate: float
    note: str = ""


def objective_of(config: AceStepConfig) -> Objective:
    """Choose the objective by what the configuration says: turbo, base or sft; base for one that it does not name."""
    if config.is_distilled:
        return Objective(TurboTimes(), 0.0)
    times = LargerLogitNormal(config.timestep_mu, config.timestep_sigma)
    version = config.model_version or ""
    if any(kind in version.lower() for kind in _GUIDED_KINDS):
        return Objective(times, DROP_RATE)
    named = f"names the version {version!r}" if version else "names no version"
    return Objective(
        times,
        DROP_RATE,
        f"warning: its config.json {named}: trained as base and sft are (logit-normal times, {DROP_RATE:.0%} of the "
        "conditions dropped); a distilled turbo checkpoint must say is_turbo",
    )
