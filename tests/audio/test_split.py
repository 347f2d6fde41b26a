"""The split of recordings: no sound on both sides."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from musiclora.audio.split import split_recordings
from musiclora.audio.windows import Recording
from musiclora.errors import DataError


def recording(name, source=None, checksum=None, seed=None):
    latents = np.random.default_rng(zlib.crc32((seed or name).encode())).standard_normal((9, 2)).astype(np.float32)
    return Recording(name, source or name, checksum or f"sum of {name}", latents)


def names(recordings):
    return {r.name for r in recordings}


@pytest.mark.parametrize("seed", range(8))
def test_pieces_of_one_recording_stay_on_one_side(seed):
    pieces = [recording(f"{song}-{k}", source=song) for song in "abcdefgh" for k in range(4)]
    train, held_out, _ = split_recordings(pieces, 0.25, seed)
    assert {r.source for r in train}.isdisjoint({r.source for r in held_out})
    assert len({r.source for r in held_out}) == 2
    assert len(train) + len(held_out) == 32


@pytest.mark.parametrize("seed", range(8))
def test_the_same_sound_under_two_names_stays_on_one_side(seed):
    found = [recording(n) for n in "abcde"] + [recording("copy", checksum="sum of a")]
    found += [recording("same latents", seed="b")]
    train, held_out, notes = split_recordings(found, 0.2, seed)
    for pair in ({"a", "copy"}, {"b", "same latents"}):
        assert pair <= names(train) or pair <= names(held_out)
    assert "same sound" in notes[0]


def test_the_choice_depends_on_the_seed_and_not_on_the_order():
    found = [recording(n) for n in "abcdefghijkl"]
    chosen = [names(split_recordings(part, 0.25, 1)[1]) for part in (found, found[::-1])]
    assert chosen[0] == chosen[1]
    assert len({frozenset(names(split_recordings(found, 0.25, seed)[1])) for seed in range(9)}) > 1


def test_at_least_one_is_held_out_and_at_least_one_trained_on():
    two = [recording("a"), recording("b")]
    for share in (0.01, 0.99):
        train, held_out, _ = split_recordings(two, share, 0)
        assert (len(train), len(held_out)) == (1, 1)


def test_without_a_split_all_are_trained_on():
    train, held_out, notes = split_recordings([recording("a")], 0, 0)
    assert (len(train), held_out, notes) == (1, [], [])


def test_one_recording_in_pieces_is_refused_with_what_to_do():
    pieces = [recording(f"a{k}", source="a") for k in range(5)]
    with pytest.raises(DataError, match=r"1 different recording.*--val-split 0"):
        split_recordings(pieces, 0.1, 0)
