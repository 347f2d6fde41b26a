"""Overlapping area and Kullback-Leibler divergence of distances within and between two sets of pieces.

Source: L.-C. Yang and A. Lerch, On the evaluation of generative models in music, Neural Computing and Applications 32
(2020), sections 3.2 and 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BINS = 256  # from 0 to the largest distance
_GRID = 4 * _BINS  # with room for the kernel's tails on both sides
_MARGIN = (_GRID - _BINS) // 2
_LEAST = 1e-12  # share of a density in a bin: keeps the divergence finite


@dataclass(frozen=True)
class Overlap:
    """Comparison of the distances within the reference with those between both sets, for each weighting.

    Attributes:
        area: overlapping area of the two densities, 0..1, float64 [R].
        divergence: Kullback-Leibler divergence of the second from the first in nats, float64 [R].
        spread: mean distance within the generated set by that within the reference, float64 [R]; NaN where it is not
            defined.
    """

    area: np.ndarray
    divergence: np.ndarray
    spread: np.ndarray


def distances_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances of all pairs.

    Args:
        first: float64 [m, d].
        second: float64 [n, d].

    Returns:
        float64 [m, n].
    """
    return np.stack([np.sqrt(((row - second) ** 2).sum(axis=1)) for row in first])


@dataclass(frozen=True)
class SetDistances:
    """Distances within and between two sets of m and n pieces.

    Attributes:
        reference: float64 [m, m].
        between: float64 [m, n].
        generated: float64 [n, n].
    """

    reference: np.ndarray
    between: np.ndarray
    generated: np.ndarray

    @classmethod
    def of(cls, reference: np.ndarray, generated: np.ndarray) -> SetDistances:
        """Compute all distances.

        Args:
            reference: vectors of the pieces, float64 [m, d].
            generated: float64 [n, d].
        """
        pairs = ((reference, reference), (reference, generated), (generated, generated))
        return cls(*(distances_between(a, b) for a, b in pairs))


def compare_sets(distances: SetDistances, reference: np.ndarray, generated: np.ndarray) -> Overlap:
    """Compare two sets of pieces, once for each weighting.

    Densities are Gaussian kernel estimates with Scott's bandwidth, as in the source. Pairs of a piece with itself are
    left out.

    Args:
        distances: of the pieces.
        reference: how often each piece counts, float64 [R, m]; at least two pieces in each row.
        generated: float64 [R, n]; at least one piece in each row.
    """
    own = np.triu_indices(len(distances.reference), 1)
    made = np.triu_indices(len(distances.generated), 1)
    highest = float(max(distances.reference.max(), distances.between.max()))
    pieces, others = np.count_nonzero(reference, axis=1), np.count_nonzero(generated, axis=1)
    within = reference[:, own[0]] * reference[:, own[1]]
    between = (reference[:, :, None] * generated[:, None, :]).reshape(len(reference), -1)
    p = _densities(distances.reference[own], within, highest, pieces * (pieces - 1) / 2)
    q = _densities(distances.between.reshape(-1), between, highest, pieces * others)
    area = np.minimum(p, q).sum(axis=1)
    divergence = (p * np.log(np.maximum(p, _LEAST) / np.maximum(q, _LEAST))).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = _mean(distances.generated[made], generated[:, made[0]] * generated[:, made[1]])
        spread = spread / _mean(distances.reference[own], within)
    return Overlap(np.clip(area, 0.0, 1.0), np.maximum(divergence, 0.0), np.where(np.isfinite(spread), spread, np.nan))


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights @ values / weights.sum(axis=1))


def _densities(values: np.ndarray, weights: np.ndarray, highest: float, pairs: np.ndarray) -> np.ndarray:
    """Estimate the density of weighted distances on a grid.

    Args:
        values: float64 [N].
        weights: float64 [R, N].
        highest: largest distance of all; the grid covers 0 to this, with a margin for the kernel's tails.
        pairs: number of pairs of different pieces in each weighting, [R]; Scott's bandwidth is the deviation times
            this to the power of -1/5.

    Returns:
        float64 [R, grid], each row sums to 1.
    """
    unit = highest / (_BINS - 1) or 1.0
    place = values / unit + _MARGIN
    low = np.floor(place).astype(np.int64)
    share = place - low
    total = weights.sum(axis=1, keepdims=True)
    rows = [
        np.bincount(low, row * (1 - share), _GRID) + np.bincount(low + 1, row * share, _GRID) for row in weights / total
    ]
    mean = _mean(values, weights)[:, None]
    variance = (weights * (values - mean) ** 2).sum(axis=1) / total[:, 0]
    variance = variance * pairs / np.maximum(pairs - 1, 1)  # unbiased, as the source's estimator has it
    bandwidth = np.maximum(np.sqrt(variance) * pairs**-0.2 / unit, 0.5)  # bins; equal distances get a bin's width
    frequency = np.fft.rfftfreq(_GRID)
    smooth = np.exp(-2 * (np.pi * frequency * bandwidth[:, None]) ** 2)
    found = np.maximum(np.fft.irfft(np.fft.rfft(np.stack(rows), axis=1) * smooth, _GRID, axis=1), 0.0)
    return np.asarray(found / found.sum(axis=1, keepdims=True))
