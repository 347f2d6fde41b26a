"""Overlapping area and divergence: the source's estimator, weights, and sets without any spread."""

from __future__ import annotations

import numpy as np
import pytest

from musiclora.evaluation.style.overlap import SetDistances, compare_sets, distances_between

RNG = np.random.default_rng(4)
ARTIST, OTHER = RNG.normal(0, 1, (14, 5)), RNG.normal(0.7, 1.4, (11, 5))


def compared(reference, generated, weights=None, made=None):
    found = SetDistances.of(np.asarray(reference, float), np.asarray(generated, float))
    weights = np.ones((1, len(reference))) if weights is None else weights
    made = np.ones((len(weights), len(generated))) if made is None else made
    return compare_sets(found, weights, made)


def test_the_estimate_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    within = distances_between(ARTIST, ARTIST)[np.triu_indices(len(ARTIST), 1)]
    between = distances_between(ARTIST, OTHER).reshape(-1)
    grid = np.linspace(-10, 20, 60_001)
    p, q = (stats.gaussian_kde(values)(grid) for values in (within, between))
    step = grid[1] - grid[0]
    known = (p > 1e-12) & (q > 1e-12)
    divergence = (p[known] * np.log(p[known] / q[known])).sum() * step
    found = compared(ARTIST, OTHER)
    # 256 bins over the distances, filled linearly: good to about a hundredth of the bandwidth.
    assert found.area[0] == pytest.approx(np.minimum(p, q).sum() * step, abs=2e-3)
    assert found.divergence[0] == pytest.approx(divergence, rel=0.02)


def test_a_weight_counts_a_piece_as_often_without_pairs_with_itself():
    weights = np.array([[2.0, 1.0, 1.0, 0.0]])
    found = compared([[0.0], [1.0], [3.0], [99.0]], [[1.0], [2.0]], weights)
    known = SetDistances.of(np.array([[0.0], [1.0], [3.0]]), np.array([[1.0], [2.0]]))
    left_out = compare_sets(known, np.array([[2.0, 1.0, 1.0]]), np.ones((1, 2)))
    # The far piece has no weight, but the grid reaches to it.
    assert found.area[0] == pytest.approx(left_out.area[0], abs=0.06)
    within, made = (2 * 1 + 2 * 3 + 1 * 2) / 5, 1.0
    assert found.spread[0] == pytest.approx(made / within)


def test_rows_of_weights_are_independent():
    weights = RNG.integers(0, 3, (6, len(ARTIST))).astype(float)
    made = RNG.integers(0, 3, (6, len(OTHER))).astype(float)
    together = compared(ARTIST, OTHER, weights, made)
    for row in range(6):
        alone = compared(ARTIST, OTHER, weights[row : row + 1], made[row : row + 1])
        # the same sums in matrices of another shape
        assert together.area[row] == pytest.approx(alone.area[0], abs=1e-9)
        assert together.divergence[row] == pytest.approx(alone.divergence[0], rel=1e-6)


@pytest.mark.parametrize(
    ("generated", "area", "spread"),
    [([[1.0]] * 3, 1.0, np.nan), ([[2.0]] * 3, 0.0, np.nan)],
    ids=["the same", "another"],
)
def test_sets_without_any_spread(generated, area, spread):
    found = compared([[1.0]] * 4, generated)
    assert found.area[0] == pytest.approx(area, abs=1e-4)  # the narrowest kernel, half a bin, leaves ripples of 1e-5
    assert np.isnan(found.spread[0]) == np.isnan(spread)


def test_equal_pieces_have_no_spread_and_far_ones_no_overlap():
    same = compared(ARTIST, np.repeat(ARTIST[:1], 5, axis=0))
    assert same.spread[0] == 0.0
    far = compared(ARTIST, OTHER + 100)
    assert far.area[0] < 1e-4
    assert far.divergence[0] > 10
    assert np.isfinite(far.divergence[0])
