"""Bounds for rounding errors, from sizes and magnitudes.

Two processors, libraries, memory layouts, batch shapes or numbers of threads form the same sum in different orders.
Both results are right, and they differ by rounding. The bounds follow Higham, *Accuracy and Stability of Numerical
Algorithms* (2nd edition, section 3.1): a sum of n products computed in any order, with or without fused multiply-add,
differs from the exact one by at most gamma(n) = n u / (1 - n u) times the sum of the absolute values of the products,
u being half the distance from 1 to the next number. Roundings are as often up as down, so that long chains of them
follow a random walk: Higham and Mary (2019) show that 6 sqrt(n) u is exceeded with a probability below 2 exp(-18).
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Standard deviations of the random walk that a difference may reach: 3e-8 of all differences would exceed them.
DEVIATIONS = 6

# Relative error that the interface promises for logits in float32. Two passes of up to 190 roundings on the longest
# path from input to output stay below it: 2 x 6 x sqrt(190) x u. Norms and softmaxes keep what they are given at size
# one, so that errors of earlier layers fade among those of later ones.
LOGITS = 1e-5


def unit(dtype: Any = np.float32) -> float:
    """Return the unit roundoff u: the largest relative error of one rounding."""
    return float(np.finfo(dtype).eps) / 2


def gamma(terms: int, dtype: Any = np.float32) -> float:
    """Return the largest relative error of so many roundings in a row, gamma(n)."""
    product = terms * unit(dtype)
    return product / (1 - product)


def rounding(terms: int, magnitude: Any = 1.0, dtype: Any = np.float32) -> float:
    """Bound the difference between two computations of one value that round in different places.

    Args:
        terms: roundings on the longest path to the value. A sum of n products has n; a chain of layers has the sum of
            the lengths of its products.
        magnitude: largest sum of the absolute values of the terms (`absolute_product` gives it for a matrix product).
            An array stands for its largest absolute value.
        dtype: precision of the computation.
    """
    bound = min(gamma(terms, dtype), DEVIATIONS * np.sqrt(terms) * unit(dtype))
    return float(2 * bound * np.max(np.abs(np.asarray(magnitude))))


def absolute_product(left: Any, right: Any) -> float:
    """Return the largest sum of absolute values in the matrix product left @ right."""
    return float((np.abs(np.asarray(left, np.float64)) @ np.abs(np.asarray(right, np.float64))).max())


def logits(expected: Any) -> float:
    """Return the tolerance that the interface promises for logits, or values of a network like them."""
    return LOGITS * max(1.0, float(np.abs(expected).max()))


def assert_near(found: Any, expected: Any, tolerance: float, name: str = "") -> None:
    """Compare two arrays with an absolute tolerance."""
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=tolerance, err_msg=name)


def assert_same_draws(found: Any, expected: Any, margin: Any) -> None:
    """Compare two matrices of drawn tokens row by row; they may part where rounding decides a draw.

    Args:
        found, expected: tokens [rows, steps].
        margin: margin(row, step) gives the distance of the draw from the nearest other token. It is asked at the first
            token of a row that differs; every later one has another past.
    """
    assert np.shape(found) == np.shape(expected)
    for row, (left, right) in enumerate(zip(np.asarray(found), np.asarray(expected), strict=True)):
        differing = np.flatnonzero(left != right)
        if differing.size:
            step = int(differing[0])
            assert margin(row, step) < LOGITS, f"row {row} parts at step {step}: {left[step]} is not {right[step]}"
