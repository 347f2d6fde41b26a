"""Weights of songs: expectations, whole draws and thinned targets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musiclora.training.weighing import draw_visits, keep_some, song_factors


def test_song_factors_equalise_songs_and_keep_the_sum():
    songs, targets = ["long", "long", "short", "copied", "copied"], [900, 700, 40, 60, 60]
    found = song_factors(songs, targets) * targets
    assert found[:2].sum() == pytest.approx(found[2]) == pytest.approx(found[3:].sum())
    assert found.sum() == pytest.approx(sum(targets))


def test_song_factors_leave_out_songs_without_targets():
    assert song_factors(["a", "b", "c"], [10, 0, 30]).tolist() == pytest.approx([2.0, 0.0, 2 / 3])


VISITS = st.lists(st.floats(0, 30), min_size=1, max_size=40).filter(lambda found: sum(found) > 0.5)


@settings(max_examples=100, deadline=None)
@given(VISITS, st.integers(0, 9))
def test_draw_visits_has_a_fixed_sum_and_stays_near_each_expectation(expected, seed):
    wanted = np.array(expected) * (np.ceil(sum(expected)) / sum(expected))
    drawn = draw_visits(wanted, np.random.default_rng(seed))
    assert drawn.sum() == round(wanted.sum())
    assert (np.abs(drawn - wanted) < 1 + 1e-9).all()


def test_draw_visits_reaches_its_expectations():
    wanted = np.array([0.25, 2.5, 0.0, 1.25])
    drawn = np.mean([draw_visits(wanted, np.random.default_rng(seed)) for seed in range(2000)], axis=0)
    # A visit is within 1 of its expectation, so its standard error is below 0.5 / sqrt(2000) = 0.011.
    np.testing.assert_allclose(drawn, wanted, atol=0.05)


def test_keep_some_keeps_targets_only_and_their_share():
    scored = np.arange(50) % 3 > 0
    kept = [keep_some(scored, 0.7, np.random.default_rng(seed)) for seed in range(500)]
    assert all((scored | ~k).all() for k in kept)
    assert {int(k.sum()) for k in kept} == {23, 24}  # of 33 targets, 23.1
    each = np.mean(kept, axis=0)[scored]
    assert each.min() > 0.6  # standard error sqrt(0.7 * 0.3 / 500) = 0.02
    assert keep_some(scored, 1.0, np.random.default_rng(0)).tolist() == scored.tolist()
