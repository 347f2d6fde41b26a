"""Statistics of ratings: Student intervals, a sign-flip permutation test, a two-way bootstrap, Krippendorff's alpha."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
_EXACT_LISTENERS = 14  # 2 ** 14 sign patterns; more are drawn
_DRAWN_PATTERNS = 20_000
_RESAMPLES = 4000
_ANGLES = 200_001


@dataclass(frozen=True)
class Estimate:
    """Mean with 95 % intervals; an interval is None where one listener or item cannot give it.

    Attributes:
        mean: of all ratings, each listener counting once.
        over_listeners: Student interval of the listeners' means: other listeners, the same excerpts.
        over_both: percentile interval when listeners and excerpts are both drawn again.
    """

    mean: float
    over_listeners: tuple[float, float] | None
    over_both: tuple[float, float] | None


@functools.cache
def student_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Return t such that a Student variable lies in [-t, t] with this probability.

    With t = sqrt(degrees) tan(angle) the density becomes cos(angle) ** (degrees - 1), which is integrated.

    Args:
        degrees: of freedom, at least 1.
        confidence: probability, between 0 and 1.
    """
    angles = np.linspace(0, math.pi / 2, _ANGLES)
    density = np.cos(angles) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(confidence, mass / mass[-1], angles)))


def student_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of independent values [n]; None for fewer than two."""
    if len(values) < 2:
        return None
    half = student_quantile(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def estimate_mean(ratings: np.ndarray, seed: int = 0) -> Estimate:
    """Estimate the mean opinion score of a condition.

    Args:
        ratings: float [listeners, items], complete.
        seed: of the bootstrap.
    """
    drawn = _resample(ratings, np.random.default_rng(seed))
    return Estimate(float(ratings.mean()), student_interval(ratings.mean(axis=1)), _percentiles(drawn))


def estimate_change(after: np.ndarray, before: np.ndarray, seed: int = 0) -> Estimate:
    """Estimate the difference of two conditions that the same listeners rated.

    Args:
        after, before: float [listeners, items]; their items are different excerpts.
        seed: of the bootstrap; both conditions draw the same listeners.
    """
    per_listener = after.mean(axis=1) - before.mean(axis=1)
    drawn = None
    if min(after.shape + before.shape) > 1:
        rng = np.random.default_rng(seed)
        listeners = rng.integers(0, len(after), (_RESAMPLES, len(after)))
        drawn = _draw_items(after, listeners, rng) - _draw_items(before, listeners, rng)
    return Estimate(float(per_listener.mean()), student_interval(per_listener), _percentiles(drawn))


def _resample(ratings: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Draw listeners and items anew (Owen 2007, pigeonhole bootstrap): means, float64 [resamples]."""
    if min(ratings.shape) < 2:
        return None
    return _draw_items(ratings, rng.integers(0, len(ratings), (_RESAMPLES, len(ratings))), rng)


def _draw_items(ratings: np.ndarray, listeners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    items = rng.integers(0, ratings.shape[1], (len(listeners), ratings.shape[1]))
    return np.array([ratings[np.ix_(rows, columns)].mean() for rows, columns in zip(listeners, items, strict=True)])


def _percentiles(values: np.ndarray | None) -> tuple[float, float] | None:
    if values is None:
        return None
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def permutation_p(differences: np.ndarray, seed: int = 0) -> float:
    """Test whether the mean of paired differences is zero, two-sided, by flipping their signs.

    Up to 14 listeners all 2 ** n patterns are counted, so the smallest p is 2 / 2 ** n; for more, 20,000 are drawn.

    Args:
        differences: one a listener, float [n].
        seed: of the drawn patterns.
    """
    count = len(differences)
    if count <= _EXACT_LISTENERS:
        signs = np.array(list(itertools.product((1, -1), repeat=count)))
        return float(np.mean(_reaches(signs, differences)))
    signs = np.random.default_rng(seed).choice((1, -1), (_DRAWN_PATTERNS, count))
    return float((1 + _reaches(signs, differences).sum()) / (1 + _DRAWN_PATTERNS))


def _reaches(signs: np.ndarray, differences: np.ndarray) -> np.ndarray:
    reached: np.ndarray = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9  # rounding of equal sums
    return reached


def ordinal_alpha(ratings: np.ndarray, degrees: int = 5) -> float | None:
    """Compute Krippendorff's alpha for ordinal ratings without gaps: 1 is agreement, 0 is chance.

    Args:
        ratings: integers 1 to degrees, [listeners, items].
        degrees: of the scale.

    Returns:
        Alpha; None for fewer than two listeners, and where all ratings are equal, which leaves nothing to agree on.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section D and the ordinal metric.
    """
    listeners = len(ratings)
    if listeners < 2:
        return None
    per_item = np.stack([(ratings == degree).sum(axis=0) for degree in range(1, degrees + 1)], axis=1).astype(float)
    coincidences = (per_item.T @ per_item - np.diag(per_item.sum(axis=0))) / (listeners - 1)
    totals = coincidences.sum(axis=0)
    middle = np.cumsum(totals) - totals / 2  # rank of a degree: all below it, and half of its own
    distance = np.square(middle[:, None] - middle[None, :])
    expected = float((np.outer(totals, totals) * distance).sum()) / (totals.sum() - 1)
    return 1 - float((coincidences * distance).sum()) / expected if expected else None
