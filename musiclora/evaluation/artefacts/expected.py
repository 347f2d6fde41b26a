"""Range of an artefact measure that the reference recordings themselves show, and what lies outside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEAST_RECORDINGS = 4
_CONFIDENCE = 0.99  # of the range for one further recording
_LEAST_SHARE = 1e-5  # shares below it are alike


@dataclass(frozen=True)
class Measure:
    """Descriptor of one artefact measure.

    Attributes:
        key: attribute of `Artefacts`, and key in `--json`.
        title: name with its unit.
        scaled: converts values to the scale on which recordings are about normally distributed.
        restored: the inverse of it.
        least: half the width of the narrowest range on that scale, below which a difference is of no interest.
        text: formats a value.
    """

    key: str
    title: str
    scaled: Callable[[np.ndarray], np.ndarray]
    restored: Callable[[float], float]
    least: float
    text: Callable[[float], str]


def _percent(share: float) -> str:
    return "<0.001" if 0 < share < 1e-5 else f"{100 * share:.{2 if share < 0.0995 else 3}g}"


def _plain(value: float) -> str:
    return f"{value:.3g}" if value else "0"


def _as_is(values: np.ndarray) -> np.ndarray:
    return values


def _decibels(shares: np.ndarray) -> np.ndarray:
    found: np.ndarray = 10 * np.log10(np.maximum(shares, 1e-10))
    return found


def _log_share(shares: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.log10(np.maximum(shares, _LEAST_SHARE))
    return found


def _restored_share(value: float) -> float:
    return min(1.0, 10**value) if value > np.log10(_LEAST_SHARE) else 0.0


MEASURES = (
    # The square root makes the spread of a count independent of its size.
    Measure("clicks_per_minute", "clicks a minute", np.sqrt, lambda v: max(0.0, v) ** 2, 1.0, _plain),
    Measure("noise_floor_db", "noise floor, dB", _as_is, lambda v: min(0.0, max(-100.0, v)), 1.0, lambda v: f"{v:.1f}"),
    Measure(
        "energy_above_10khz", "energy above 10 kHz, %", _decibels, lambda v: min(1.0, 10 ** (v / 10)), 1.0, _percent
    ),
    Measure("clipped", "clipped samples, %", _log_share, _restored_share, 0.5, _percent),
    Measure("silence", "silence, % of time", _as_is, lambda v: min(1.0, max(0.0, v)), 0.01, _percent),
)


@dataclass(frozen=True)
class Expected:
    """Range of a measure for one further recording of the reference's kind.

    Attributes:
        low, high: in the measure's own unit.
        outside: number of reference recordings' files outside the range of the other recordings.
    """

    low: float
    high: float
    outside: int

    def place(self, value: float) -> str:
        """Return `above` or `below` for a value outside the range, else an empty string."""
        return "above" if value > self.high else "below" if value < self.low else ""


def expect_range(
    measure: Measure, values: Sequence[float], groups: Sequence[str], least: int = LEAST_RECORDINGS
) -> Expected | None:
    """Compute the 99 % prediction interval of one further recording, widened to hold all given ones.

    Args:
        measure: the measure.
        values: of the reference files.
        groups: recording of each file; recordings count, not files.
        least: least number of recordings.

    Returns:
        None for fewer recordings. The range of the other recordings, which tells how many of the reference's own files
        lie outside, is their prediction interval widened in the same way.

    Source: prediction interval of a normal distribution with unknown mean and variance: mean ± t s √(1 + 1/n).
    """
    names = np.array(groups)
    kinds = sorted(set(groups))
    if len(kinds) < least:
        return None
    low, high = _interval(measure, np.array(values), len(kinds))
    outside = 0
    for kind in kinds:
        others = _interval(measure, np.array(values)[names != kind], len(kinds) - 1)
        own = np.array(values)[names == kind]
        outside += int(((own < others[0]) | (own > others[1])).sum())
    return Expected(low, high, outside)


def _interval(measure: Measure, values: np.ndarray, count: int) -> tuple[float, float]:
    """Compute the range from the values of `count` recordings."""
    from scipy.special import stdtrit

    scaled = measure.scaled(values)
    quantile = float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2))
    reach = max(measure.least, quantile * float(scaled.std(ddof=1)) * float(np.sqrt(1 + 1 / count)))
    middle = float(scaled.mean())
    ends = measure.restored(middle - reach), measure.restored(middle + reach)
    return min(ends[0], float(values.min())), max(ends[1], float(values.max()))
