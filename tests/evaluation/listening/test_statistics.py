from __future__ import annotations

import numpy as np
import pytest

from musiclora.evaluation.listening.statistics import (
    estimate_change,
    estimate_mean,
    ordinal_alpha,
    permutation_p,
    student_interval,
    student_quantile,
)


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.706), (4, 2.776), (9, 2.262), (29, 2.045), (1000, 1.962)])
def test_student_quantiles_are_those_of_the_tables(degrees, quantile):
    assert student_quantile(degrees) == pytest.approx(quantile, abs=0.0006)  # tables have three decimals


def test_the_student_interval_covers_the_mean_in_95_of_100_cases():
    drawn = np.random.default_rng(0).normal(3.0, 0.7, (1000, 6))
    intervals = [student_interval(row) for row in drawn]
    covered = np.mean([low <= 3.0 <= high for low, high in intervals])
    assert covered == pytest.approx(0.95, abs=0.021)  # three standard errors of 1000 cases


def test_one_listener_or_excerpt_gives_no_interval_over_it():
    several = estimate_mean(np.array([[1.0, 2.0], [4.0, 5.0]]))
    assert several.mean == 3
    assert several.over_listeners is not None
    assert several.over_both is not None
    assert estimate_mean(np.array([[1.0, 5.0]])).over_listeners is None
    assert estimate_mean(np.array([[1.0], [5.0]])).over_both is None
    assert estimate_change(np.array([[1.0], [5.0]]), np.ones((2, 3))).over_both is None


def test_excerpts_that_differ_widen_the_interval_over_both_only():
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.2, (12, 6))
    alike, different = (estimate_mean(3 + noise + spread * np.arange(6)) for spread in (0.0, 0.5))
    width = lambda span: span[1] - span[0]  # noqa: E731
    assert width(different.over_listeners) == pytest.approx(width(alike.over_listeners))
    assert width(different.over_both) > 3 * width(alike.over_both)


@pytest.mark.slow
def test_the_interval_over_both_covers_the_mean_of_new_listeners_and_excerpts():
    rng, covered, over_listeners = np.random.default_rng(0), [], []
    for seed in range(100):
        rated = 3 + rng.normal(0, 0.4, (8, 1)) + rng.normal(0, 0.5, (1, 8)) + rng.normal(0, 0.7, (8, 8))
        estimate = estimate_mean(rated, seed)
        covered.append(estimate.over_both[0] <= 3 <= estimate.over_both[1])
        over_listeners.append(estimate.over_listeners[0] <= 3 <= estimate.over_listeners[1])
    assert np.mean(covered) == pytest.approx(0.95, abs=0.066)  # three standard errors of 100 cases
    assert np.mean(over_listeners) < np.mean(covered)  # it speaks of these excerpts only


def test_a_change_is_paired_by_listener():
    level = np.array([[1.0], [2.0], [3.0], [4.0]])  # listeners use the scale differently
    before, after = np.repeat(level, 3, axis=1), np.repeat(level + 1, 2, axis=1)
    change = estimate_change(after, before)
    assert change.mean == 1
    assert change.over_listeners == (1, 1)
    assert change.over_both == (1, 1)


def test_the_permutation_test_counts_every_pattern_of_few_listeners():
    assert permutation_p(np.array([0.5, 1.0, 0.2, 0.4, 2.0])) == 2 / 32
    assert permutation_p(np.array([1.0, -1.0, 1.0, -1.0])) == 1
    # of the 8 sums +-1 +-2 +-3 six are at least 2 in size
    assert permutation_p(np.array([1.0, -2.0, 3.0])) == 6 / 8


def test_the_permutation_test_keeps_its_level_with_many_listeners():
    rng = np.random.default_rng(2)
    found = np.array([permutation_p(rng.normal(0, 1, 20), seed) for seed in range(200)])
    assert np.mean(found < 0.05) == pytest.approx(0.05, abs=0.047)  # three standard errors of 200 cases
    assert permutation_p(np.full(20, 1.0)) < 0.001


def alpha_by_pairs(ratings: np.ndarray) -> float:
    """Krippendorff's alpha from its definition: mean distance of pairs in an item over that of all pairs."""
    values = ratings.ravel()
    counts = {degree: int((values == degree).sum()) for degree in range(1, 6)}

    def distance(a: int, b: int) -> float:
        low, high = sorted((int(a), int(b)))
        between = sum(counts[degree] for degree in range(low, high + 1))
        return (between - (counts[low] + counts[high]) / 2) ** 2

    inside = [distance(a, b) for item in ratings.T for i, a in enumerate(item) for j, b in enumerate(item) if i != j]
    overall = [distance(a, b) for i, a in enumerate(values) for j, b in enumerate(values) if i != j]
    return 1 - np.mean(inside) / np.mean(overall)


def test_alpha_is_one_for_agreement_and_near_zero_for_chance():
    item = np.array([1, 3, 5, 2, 4])
    assert ordinal_alpha(np.stack([item, item, item])) == pytest.approx(1)
    chance = np.random.default_rng(3).integers(1, 6, (6, 300))
    assert ordinal_alpha(chance) == pytest.approx(0, abs=0.05)


def test_alpha_equals_its_definition_over_pairs():
    rng = np.random.default_rng(4)
    ratings = np.clip(rng.integers(1, 6, 7) + rng.integers(-1, 2, (4, 7)), 1, 5)
    assert ordinal_alpha(ratings) == pytest.approx(alpha_by_pairs(ratings))


def test_alpha_is_undefined_where_nothing_can_be_agreed_on():
    assert ordinal_alpha(np.array([[1, 2, 3]])) is None
    assert ordinal_alpha(np.full((3, 4), 4)) is None
