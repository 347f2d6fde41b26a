"""The bounds hold for every order of summation, and errors of substance exceed them."""

from __future__ import annotations

import numpy as np
import pytest
from tolerance import absolute_product, assert_same_draws, gamma, rounding, unit


def orders(left, right):
    """The same products in float32, summed in different orders."""
    yield left @ right
    yield np.asfortranarray(left) @ right
    yield (np.ascontiguousarray(right.T) @ left.T).T
    yield left[:, ::-1] @ right[::-1]
    yield np.concatenate([row[None] @ right for row in left])
    total = np.zeros((len(left), right.shape[1]), np.float32)
    for k in range(left.shape[1]):  # one after the other, the order with the largest error
        total += left[:, k : k + 1] * right[k]
    yield total


@pytest.mark.parametrize("terms", [3, 64, 1000])
def test_a_product_lies_within_its_bound_whatever_the_order(terms):
    rng = np.random.default_rng(terms)
    left, right = (rng.standard_normal(shape).astype(np.float32) for shape in ((20, terms), (terms, 20)))
    exact = left.astype(np.float64) @ right.astype(np.float64)
    bound = rounding(terms, absolute_product(left, right))
    for found in orders(left, right):
        assert np.abs(found - exact).max() < bound
    assert bound < 0.005 * np.abs(exact).max()


def test_a_transposed_factor_and_a_wrong_scale_exceed_the_bound():
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((16, 16)).astype(np.float32) for _ in range(2))
    exact, bound = left.astype(np.float64) @ right, rounding(16, absolute_product(left, right))
    for wrong in (left @ right.T, left.T @ right, left @ right * np.float32(1.01)):
        assert np.abs(wrong - exact).max() > 100 * bound


def test_few_roundings_are_bounded_by_the_worst_case_and_many_by_the_random_walk():
    assert unit() == 2**-24
    assert unit(np.float64) == 2**-53
    assert gamma(1) == pytest.approx(2**-24)
    assert rounding(9, 2.0) == pytest.approx(2 * 2 * 9 * 2**-24)
    assert rounding(10_000) == pytest.approx(2 * 6 * 100 * 2**-24)
    assert rounding(4, np.array([1.0, -3.0])) == pytest.approx(3 * rounding(4))


def test_draws_may_part_only_where_rounding_decides():
    left = np.array([[1, 2, 3], [1, 2, 3]])
    right = np.array([[1, 2, 3], [1, 9, 9]])
    assert_same_draws(left, left, lambda row, step: 1.0)
    assert_same_draws(left, right, lambda row, step: 1e-7 if (row, step) == (1, 1) else 1.0)
    with pytest.raises(AssertionError, match="row 1 parts at step 1"):
        assert_same_draws(left, right, lambda row, step: 1e-3)
