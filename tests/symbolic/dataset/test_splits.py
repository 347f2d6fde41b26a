"""Near duplicates and splits: no music on both sides, and validation on originals only."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musiclora.convert.errors import ConfigError, DataError
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.splits import cluster_pieces, near_duplicates, split_pieces


@dataclass(frozen=True)
class Tune:
    name: str
    group: str
    pitches: np.ndarray = field(repr=False)
    is_original: bool = True


def melody(seed, length=60):
    return np.random.default_rng(seed).integers(55, 80, length)


def songs(count, copies=0):
    found = []
    for i in range(count):
        found.append(Tune(f"s{i:02d}", f"s{i:02d}", melody(i)))
        found += [Tune(f"s{i:02d}__t{k}", f"s{i:02d}", melody(i) + k, False) for k in range(1, copies + 1)]
    return found


def test_transposed_copies_are_near_duplicates():
    assert near_duplicates([melody(0), melody(1), melody(0) + 5]) == [(0, 2)]


@pytest.mark.parametrize(("share", "found"), [(0.2, []), (0.5, [(0, 1)])], ids=["a fifth shared", "half shared"])
def test_the_threshold_is_thirty_percent_of_the_runs(share, found):
    one, other = melody(0, 200), melody(1, 200)
    kept = int(200 * share)
    assert near_duplicates([one, np.concatenate([one[:kept], other[kept:]])]) == found


def test_a_short_part_of_a_long_tune_is_a_near_duplicate_of_it():
    assert near_duplicates([melody(3, 400), melody(3, 400)[100:140]]) == [(0, 1)]


def test_against_compares_with_the_other_list_only():
    assert near_duplicates([melody(0), melody(0)], [melody(9), melody(0) - 3]) == [(0, 1), (1, 1)]


def test_tunes_of_a_few_notes_match_only_when_they_are_the_same():
    assert near_duplicates([np.array([60, 62, 64]), np.array([61, 63, 65]), np.array([60, 62, 65])]) == [(0, 1)]
    assert near_duplicates([np.array([60]), np.array([60]), np.zeros(0, np.int16)]) == []


def test_clusters_join_songs_through_a_common_neighbour():
    a, b, c = melody(0, 60), melody(1, 60), melody(2, 60)
    tunes = [np.concatenate([a, b]), np.concatenate([b, c]), np.concatenate([c, melody(3, 60)]), melody(4)]
    assert cluster_pieces([Tune(str(i), str(i), t) for i, t in enumerate(tunes)]) == [0, 0, 0, 1]


def test_songs_of_drums_alone_share_a_cluster_only_where_they_are_equal():
    beats = [np.arange(3), np.arange(3), np.arange(4)]
    pieces = [Piece(str(i), str(i), tokens.astype(np.int32), 1) for i, tokens in enumerate(beats)]
    assert cluster_pieces(pieces) == [0, 0, 1]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12), st.integers(0, 3), st.floats(0.05, 0.6), st.integers(0, 99))
def test_no_song_is_on_both_sides_and_only_originals_are_scored(count, copies, fraction, seed):
    pieces = songs(count, copies)
    found = split_pieces(pieces, fraction, seed)
    train, val = ({pieces[i].group for i in side} for side in (found.train, found.val))
    assert train
    assert val
    assert not train & val
    assert all(pieces[i].is_original for i in found.val)
    assert {pieces[i].group for i in found.dropped} <= val
    assert sorted(found.train + found.val + found.dropped) == list(range(len(pieces)))
    assert len(val) == min(max(1, round(fraction * count)), count - 1)


def test_near_duplicates_stay_on_one_side():
    pieces = songs(6)
    pieces += [Tune(f"variant{i}", f"variant{i}", melody(i) + 2) for i in range(6)]
    for seed in range(10):
        found = split_pieces(pieces, 0.2, seed)
        assert {i % 6 for i in found.train}.isdisjoint({i % 6 for i in found.val})
    assert found.notes == ["12 songs are near duplicates of another and stay together in 6 clusters"]


def test_the_draw_depends_on_seed_and_names_not_on_order():
    pieces = songs(10)
    names = {pieces[i].name for i in split_pieces(pieces, 0.3, 5).val}
    assert {pieces[::-1][i].name for i in split_pieces(pieces[::-1], 0.3, 5).val} == names
    assert any({pieces[i].name for i in split_pieces(pieces, 0.3, seed).val} != names for seed in range(6, 9))


def test_two_songs_are_enough():
    found = split_pieces(songs(2), 0.1, 0)
    assert (len(found.train), len(found.val)) == (1, 1)


def test_without_validation_everything_is_trained_on():
    assert split_pieces(songs(1), 0, 0).train == [0]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (songs(1, 3), "1 song with notes: training needs at least 2"),
        ([Tune("a", "a", melody(0)), Tune("b", "b", melody(0) + 1)], "all 2 songs are near duplicates"),
        ([Tune(str(i), str(i), melody(i), False) for i in range(3)], "only augmented copies"),
    ],
    ids=["one song with copies", "variants of one song", "copies without originals"],
)
def test_what_cannot_be_split_is_refused_with_what_to_do(pieces, message):
    with pytest.raises(DataError, match=message):
        split_pieces(pieces, 0.1, 0)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ConfigError, match="must lie in"):
        split_pieces(songs(3), fraction, 0)
