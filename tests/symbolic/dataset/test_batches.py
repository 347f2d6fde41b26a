"""Packing and batches: each token is a target once, segments stay separate, and padding stays low."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musiclora.convert.errors import ConfigError, DataError
from musiclora.symbolic.dataset.batches import BatchPlan
from musiclora.symbolic.dataset.packing import choose_levels, pack_best_fit, split_into_windows
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.wrapped_rows import WrappedRows

BOS, EOS, PAD = 1, 2, 0


def pieces_of(lengths):
    """Build pieces with distinct tokens, so that each target identifies its place."""
    found, start = [], 3
    for i, n in enumerate(lengths):
        found.append(Piece(f"p{i}", f"p{i}", np.arange(start, start + n, dtype=np.int32), n))
        start += n
    return found


def plan_of(lengths, limit, batch_size=2, seed=0, bos=BOS, eos=EOS):
    return BatchPlan(pieces_of(lengths), limit, batch_size, seed, WrappedRows(bos, eos, PAD))


LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(2, 128), st.integers(1, 5), st.integers(0, 3), st.booleans())
def test_every_token_is_a_target_exactly_once_an_epoch(lengths, limit, batch_size, epoch, wrapped):
    bos, eos = (BOS, EOS) if wrapped else (None, None)
    if not wrapped:
        lengths = [max(2, n) for n in lengths]
    plan = plan_of(lengths, limit, batch_size, bos=bos, eos=eos)
    seen = Counter(int(t) for b in plan.batches(epoch) for t in b["tokens"][b["loss_mask"]])
    ends = seen.pop(EOS, 0)
    assert ends == (len(lengths) if wrapped else 0)
    unscored = 0 if wrapped else len(lengths)  # without BOS the first token has no context
    assert len(seen) == sum(lengths) - unscored
    assert set(seen.values()) <= {1}
    assert plan.tokens_per_epoch == sum(seen.values()) + ends


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(8, 128), st.integers(1, 4))
def test_segments_hold_one_piece_each_and_positions_restart(lengths, limit, batch_size):
    pieces = pieces_of(lengths)
    owner = {int(t): i for i, p in enumerate(pieces) for t in p.tokens}
    for batch in plan_of(lengths, limit, batch_size).batches(1):
        assert batch["tokens"].shape[1] <= limit
        assert not batch["loss_mask"][:, 0].any()
        for row in range(len(batch["tokens"])):
            segments = batch["segments"][row]
            assert (batch["tokens"][row][segments == -1] == PAD).all()
            assert not batch["loss_mask"][row][segments == -1].any()
            for segment in set(segments.tolist()) - {-1}:
                at = np.flatnonzero(segments == segment)
                np.testing.assert_array_equal(np.diff(at), 1)
                np.testing.assert_array_equal(batch["positions"][row][at], np.arange(len(at)))
                assert not batch["loss_mask"][row][at[0]]
                assert len({owner[int(t)] for t in batch["tokens"][row][at] if int(t) > EOS}) <= 1


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(8, 320))
def test_a_piece_that_fits_is_never_cut(lengths, limit):
    units = Counter(u.piece for row in plan_of(lengths, limit).rows(0) for u in row)
    for i, n in enumerate(lengths):
        assert (units[i] == 1) == (n + 2 <= limit)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(20, 3000), min_size=100, max_size=200), st.sampled_from([256, 512, 1024, 1000]))
def test_padding_is_at_most_five_percent_from_a_hundred_pieces_on(lengths, limit):
    assert plan_of(lengths, limit).padding(0) <= 0.05


@pytest.mark.parametrize(
    ("low", "high", "limit"),
    [(513, 1022, 1024), (543, 543, 1024), (63, 63, 1024), (20, 40, 1024), (340, 345, 1024), (200, 600, 8192)],
    ids=["none pair up", "just over a step", "just over 64", "tiny", "a third and a bit", "long rows"],
)
def test_padding_stays_low_for_awkward_lengths(low, high, limit):
    lengths = np.random.default_rng(0).integers(low, high + 1, 120).tolist()
    assert plan_of(lengths, limit).padding(0) <= 0.05


def test_ordinary_folk_tunes_need_at_most_three_row_lengths():
    lengths = np.random.default_rng(1).normal(380, 120, 300).clip(80, 1000).astype(int).tolist()
    plan = plan_of(lengths, 1024)
    assert len(plan.row_lengths) <= 3
    assert all(n % 64 == 0 for n in plan.row_lengths)
    assert plan.padding(0) <= 0.05


def test_the_same_seed_and_epoch_give_the_same_batches_and_another_epoch_another_order():
    lengths = list(range(50, 90))
    one, same = plan_of(lengths, 128, seed=7), plan_of(lengths, 128, seed=7)
    for a, b in zip(one.batches(3), same.batches(3), strict=True):
        np.testing.assert_array_equal(a["tokens"], b["tokens"])
    order = [u.piece for row in one.rows(3) for u in row]
    assert order != [u.piece for row in one.rows(4) for u in row]
    assert order != [u.piece for row in plan_of(lengths, 128, seed=8).rows(3) for u in row]


def test_batches_can_be_indexed_from_the_middle_of_an_epoch():
    plan = plan_of(list(range(50, 90)), 128, batch_size=3)
    everything = list(plan.batches(2))
    assert len(everything) == plan.batches_per_epoch
    for a, b in zip(plan.batches(2)[5:], everything[5:], strict=True):
        np.testing.assert_array_equal(a["tokens"], b["tokens"])


def test_steps_count_the_last_incomplete_accumulation():
    plan = plan_of([60] * 10, 64, batch_size=2)
    assert plan.batches_per_epoch == 5
    assert plan.steps(2) == 3


def test_the_first_real_token_is_scored_after_bos():
    batch = plan_of([5], 16).batches(0)[0]
    assert batch["tokens"][0, :3].tolist() == [BOS, 3, 4]
    assert batch["loss_mask"][0].tolist() == [False] + [True] * 6 + [False] * (batch["tokens"].shape[1] - 7)


def test_windows_of_a_long_piece_are_full_and_show_context_before_what_they_score():
    found = split_into_windows(0, 250, 100)
    assert all(u.length == 100 for u in found)
    assert [(u.start, u.scored, u.stop) for u in found] == [(0, 1, 100), (75, 100, 175), (150, 175, 250)]


def test_best_fit_fills_the_tightest_gap():
    assert pack_best_fit([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]


def test_row_lengths_are_the_cheapest_of_all_choices():
    assert choose_levels([100] * 10 + [510], 2, 1, 1024) == [100, 510]
    assert choose_levels([100, 500, 510, 1000], 2, 1, 1024) == [510, 1000]


def test_validation_order_is_kept_without_shuffling():
    plan = BatchPlan(pieces_of([60, 60, 60]), 64, 1, 0, WrappedRows(BOS, EOS, PAD), shuffle=False)
    assert [u.piece for row in plan.rows(0) for u in row] == [u.piece for row in plan.rows(5) for u in row]


@pytest.mark.parametrize("lengths", [[], [0, 0]], ids=["none", "empty"])
def test_pieces_without_targets_are_refused(lengths):
    with pytest.raises(DataError, match="nothing to train on"):
        plan_of(lengths, 64)


def test_one_token_without_bos_is_skipped_and_named():
    plan = plan_of([1, 20], 64, bos=None, eos=None)
    assert plan.skipped == ["p0"]


def test_a_row_of_one_token_is_refused():
    with pytest.raises(ConfigError, match="--max-seq-len is 1"):
        plan_of([5], 1)
