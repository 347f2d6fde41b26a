"""Matches under every change that a copy may have, and none where there is no copy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from melodies import changed, inserted, rows_of, tune

from musiclora.evaluation.copies.alignment import TEMPO_RATIOS
from musiclora.evaluation.copies.hashed import hash_songs
from musiclora.evaluation.copies.index import CopyIndex
from musiclora.evaluation.copies.matches import agreeing_runs
from musiclora.evaluation.copies.measure import measure_piece
from musiclora.evaluation.copies.notes import note_list

SONGS = [tune(i) for i in range(12)]
INDEX = CopyIndex(SONGS)
CHANGES = {
    "plain": {},
    "transposed": {"semitones": -5},
    "jittered": {"jitter": 0.05},
    "changed notes": {"edit": "change"},
    "missing notes": {"edit": "drop"},
    "added notes": {"edit": "add"},
    "all": {"semitones": 4, "tempo": 1.5, "jitter": 0.04, "edit": "add", "every": 10},
    **{f"tempo {ratio:.2f}": {"tempo": 1 / ratio} for ratio in TEMPO_RATIOS},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_copy_is_found_whole_under_every_change(change):
    song = SONGS[3]
    found = measure_piece(changed(song, **change), INDEX)
    edits = len(song) // change.get("every", 8) if change.get("edit") in ("change", "drop") else 0
    assert found.longest.song == 3
    assert found.longest.transposition == -change.get("semitones", 0)
    assert found.longest.ratio == pytest.approx(1 / change.get("tempo", 1.0))
    assert found.longest.length >= len(song) - edits - 6  # an edit near an end may cut off what lies beyond it


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_hashed_index_finds_a_copy_too(change):
    assert hash_songs(SONGS).measure(changed(SONGS[3], **change)).content >= 15


@pytest.mark.parametrize("seed", range(100, 110))
def test_unseen_tunes_of_the_same_style_share_little(seed):
    assert measure_piece(tune(seed), INDEX).content <= 8
    assert hash_songs(SONGS).measure(tune(seed)).content <= 8


def test_inserted_bars_are_located_in_the_piece_and_in_the_song():
    found = measure_piece(inserted(tune(50), SONGS[5], first_bar=4, bars=4, at_bar=9), INDEX)
    assert found.longest.song == 5
    assert found.longest.length in (16, 17, 18)  # a neighbour may agree by chance
    assert found.longest.span[0] == pytest.approx(36.0, abs=4)
    assert found.longest.song_span[0] - found.longest.span[0] == pytest.approx(16.0 - 36.0)
    assert found.share == pytest.approx(len(found.copied_notes) / 64)
    assert 16 <= len(found.copied_notes) <= 20


def test_two_changes_close_together_end_a_match():
    rows = rows_of(SONGS[2])
    rows[[30, 33], 1] += 6
    found = measure_piece(note_list("x", rows, [0.0]), INDEX)
    assert [match.length for match in found.matches[:2]] == [32, 32]


def test_a_piece_that_keeps_every_second_note_is_no_copy():
    assert measure_piece(note_list("x", rows_of(SONGS[1])[::2], [0.0]), INDEX).content <= 8


def test_a_song_left_out_does_not_count():
    assert measure_piece(SONGS[0], INDEX).longest.length == len(SONGS[0])
    assert measure_piece(SONGS[0], INDEX, leave_out=0).content <= 8
    assert hash_songs(SONGS).measure(SONGS[0], 0).content <= 8


def test_a_melody_is_found_below_another_part_and_its_chord_notes_count():
    song = rows_of(SONGS[4])
    bass = song.copy()
    bass[:, 1] -= 24
    band = note_list("song", np.concatenate((song, bass)), [0.0])
    higher = [(float(i), 100 + i % 7, 1) for i in range(60)]
    piece = note_list("piece", np.concatenate((song, bass, higher)), [0.0])
    found = measure_piece(piece, CopyIndex([band, *SONGS[5:]]))
    assert found.longest.length == len(song)
    assert len(found.copied_notes) == 2 * len(song)


def test_a_pattern_that_repeats_counts_once():
    ostinato = [(i / 2, 48 + 12 * (i % 2), 0) for i in range(64)]
    found = measure_piece(note_list("x", ostinato, [0.0]), CopyIndex([note_list("y", ostinato, [0.0])]))
    assert (found.longest.length, found.content) == (64, 7)
    assert (found.matches, found.share) == ((), 0.0)


@pytest.mark.parametrize("notes", [[], [(0.0, 60, 0)], [(float(i), 60, 0) for i in range(5)]])
def test_pieces_shorter_than_an_n_gram_have_no_match(notes):
    found = measure_piece(note_list("x", notes, []), INDEX)
    assert (found.longest, found.content, found.share) == (None, 0, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_runs_hold_one_miss_in_six_at_most_and_cover_all_that_agrees(hits):
    partner = np.where(hits, np.arange(len(hits)), -1)
    onsets = np.arange(len(hits), dtype=float)
    runs = list(agreeing_runs(onsets, partner, onsets))
    assert set(np.flatnonzero(partner >= 0)) == {i for run in runs for i in run.tolist()}
    for run in runs:
        inside = np.isin(np.arange(run[0], run[-1] + 1), run)
        assert (np.diff(np.flatnonzero(~inside)) >= 6).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 12))
def test_runs_of_a_least_length_are_those_of_all_runs_that_have_it(hits, least):
    partner = np.where(hits, np.arange(len(hits)), -1)
    onsets = np.arange(len(hits), dtype=float)
    every = [run.tolist() for run in agreeing_runs(onsets, partner, onsets)]
    found = [run.tolist() for run in agreeing_runs(onsets, partner, onsets, least)]
    assert found == [run for run in every if len(run) >= least]
