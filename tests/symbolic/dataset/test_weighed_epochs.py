"""Rows in which every song counts the same: expected targets, shapes, repetitions, copies and mixed music."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from musiclora.errors import DataError
from musiclora.symbolic.dataset import weighed_epochs
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.weighed_epochs import WeighedEpochs, make_pools
from musiclora.symbolic.dataset.wrapped_rows import WrappedRows

PAD, BOS, EOS, FIRST = 0, 1, 2, 3
LENGTHS = (3000, 2400, 40, 55, 60, 75, 80, 90, 100, 110, 120, 130)  # two long songs and ten short ones
EPOCHS = 200


@pytest.fixture(autouse=True)
def layout(monkeypatch):
    monkeypatch.setattr(weighed_epochs, "layout_of", lambda tokenizer: WrappedRows(BOS, EOS, PAD))


def pieces_of(lengths, groups=None):
    """Build pieces with distinct tokens, so that a target names its song."""
    starts = FIRST + np.cumsum([0, *lengths[:-1]])
    groups = groups or [f"p{i}" for i in range(len(lengths))]
    return [
        Piece(f"p{i}", groups[i], np.arange(start, start + n, dtype=np.int32), n)
        for i, (start, n) in enumerate(zip(starts, lengths, strict=True))
    ]


def weighed(pieces, songs=None, rows=4, seed=5, length=128):
    songs = [piece.group for piece in pieces] if songs is None else songs
    return WeighedEpochs([[piece] for piece in pieces], None, length, rows, seed, songs)


def targets_by_piece(epochs, pieces, count):
    """Count the scored targets of each piece over some epochs, int [n], and the visits of each token."""
    owner = np.concatenate([np.full(len(piece.tokens), i) for i, piece in enumerate(pieces)])
    visits = np.zeros(len(owner), int)
    for epoch in range(count):
        for batch in epochs.batches(epoch):
            scored = batch["tokens"][batch["loss_mask"]]
            np.add.at(visits, scored[scored >= FIRST] - FIRST, 1)
    return np.bincount(owner, visits), visits


def test_two_long_and_ten_short_songs_have_the_same_expected_targets():
    pieces = pieces_of(LENGTHS)
    epochs = weighed(pieces)
    found, visits = targets_by_piece(epochs, pieces, EPOCHS)
    each = epochs.tokens_per_epoch / len(pieces)
    assert [pool.targets for pool in epochs.pools] == pytest.approx([each] * len(pieces))
    # EOS is a target too and not counted here: up to 1 of 41 of the shortest song's. The rest is chance: a long song's
    # windows have 128 or 96 targets and are drawn without replacement, which over 200 epochs is below 1 %.
    np.testing.assert_allclose(found / EPOCHS, each, rtol=0.03)
    # All tokens of a song have the same expectation, none is left out.
    for start, length, factor in ((0, 3000, each / 3001), (3000, 2400, each / 2401)):
        share = visits[start : start + length] / EPOCHS
        assert share.min() > 0.5 * factor
        assert share.max() < 1.6 * factor  # standard error of a visit: sqrt(0.17 * 0.83 / 200) = 0.027 of 0.17


def test_all_epochs_have_the_same_number_of_batches_and_shapes():
    epochs = weighed(pieces_of(LENGTHS))
    shapes = [Counter(batch["tokens"].shape for batch in epochs.batches(epoch)) for epoch in range(4)]
    assert all(found == shapes[0] for found in shapes)
    assert epochs.longest_row == max(length for _, length in shapes[0])


def test_an_epoch_is_the_same_for_the_same_number_and_seed():
    pieces = pieces_of(LENGTHS)

    def content(seed, epoch):
        return [
            batch["tokens"].tobytes() + batch["loss_mask"].tobytes()
            for batch in weighed(pieces, seed=seed).batches(epoch)
        ]

    assert content(5, 3) == content(5, 3)
    assert content(5, 3) != content(5, 4)
    assert content(5, 3) != content(6, 3)


def test_the_copies_of_a_song_count_with_it():
    pieces = pieces_of([200, 60, 60, 60, 90], ["a", "b", "b", "b", "c"])
    found, _ = targets_by_piece(weighed(pieces), pieces, EPOCHS)
    songs = np.array([found[0], found[1:4].sum(), found[4]]) / EPOCHS
    np.testing.assert_allclose(songs, songs.mean(), rtol=0.04)
    np.testing.assert_allclose(found[1:4], found[1:4].mean(), rtol=0.1)


def test_music_of_mix_dir_keeps_counting_by_its_tokens():
    pieces = pieces_of([600, 100, 300, 50])
    found, _ = targets_by_piece(weighed(pieces, ["p0", "p1", None, None]), pieces, 20)
    assert found[2:].tolist() == [300 * 20, 50 * 20]
    np.testing.assert_allclose(found[:2] / 20, 350, rtol=0.06)  # EOS apart; 20 epochs


def test_unmasked_context_stays_in_the_row():
    """A thinned window keeps all its tokens as context; its mask alone has fewer targets."""
    pieces = pieces_of([100, 20])
    batch = next(iter(weighed(pieces, rows=8).batches(0)))
    long = np.isin(batch["tokens"], pieces[0].tokens)
    assert long.sum() == 100
    assert 40 < (batch["loss_mask"] & long).sum() < 80
    assert not batch["loss_mask"][batch["segments"] == -1].any()


def test_describe_says_what_each_song_gives():
    found = weighed(pieces_of([100, 20])).describe()
    assert found == "--weigh songs: each song gives about 61 scored tokens an epoch; the shortest comes up to 3 times"


def test_make_pools_leaves_out_songs_without_targets_and_no_song_is_refused():
    assert make_pools([], []) == []
    with pytest.raises(DataError, match="none of 1 pieces has two tokens"):
        weighed([Piece("a", "a", np.zeros(0, np.int32), 0)])
