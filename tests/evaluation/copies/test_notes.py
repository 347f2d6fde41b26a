"""Notes as arrays and the lines that are compared."""

from __future__ import annotations

import numpy as np
import pytest
from melodies import tune

from musiclora.evaluation.copies.grams import GRAM_NOTES, gram_keys, hash_keys
from musiclora.evaluation.copies.notes import melodic_lines, note_list


def test_notes_are_sorted_by_onset_and_pitch():
    piece = note_list("x", [(2.0, 60, 0), (0.0, 67, 1), (0.0, 64, 0)], [0.0, 4.0])
    assert piece.onsets.tolist() == [0, 0, 2]
    assert piece.pitches.tolist() == [64, 67, 60]
    assert piece.tracks.tolist() == [0, 1, 0]


@pytest.mark.parametrize(("onset", "bar"), [(0.0, 1), (3.9, 1), (3.98, 2), (4.0, 2), (100.0, 3)])
def test_a_note_lies_in_the_bar_that_its_onset_is_in_or_just_before(onset, bar):
    assert note_list("x", [(0.0, 60, 0)], [0.0, 4.0, 8.0]).bar_of(onset) == bar


def test_lines_are_the_skyline_and_the_outer_lines_of_each_track():
    melody = [(float(i), 60 + i, 0) for i in range(4)]
    chords = [(float(i), pitch + i, 1) for i in range(0, 4, 2) for pitch in (70, 40, 50)]
    piece = note_list("x", melody + chords, [0.0])
    found = [piece.pitches[line].tolist() for line in melodic_lines(piece)]
    assert found == [[70, 61, 72, 63], [60, 61, 62, 63], [70, 72], [40, 42]]


def test_a_chord_that_is_rolled_by_less_than_a_sixteenth_is_one_onset():
    piece = note_list("x", [(0.0, 60, 0), (0.05, 64, 0), (1.0, 62, 0)], [0.0])
    assert piece.pitches[melodic_lines(piece)[0]].tolist() == [64, 62]


def test_a_single_line_is_compared_once():
    assert len(melodic_lines(tune(1))) == 1


@pytest.mark.parametrize("count", [0, 1, GRAM_NOTES - 1])
def test_a_line_shorter_than_an_n_gram_has_none(count):
    assert len(gram_keys(np.arange(count, dtype=float), np.arange(count))) == 0


def test_n_grams_are_the_same_in_every_key_and_tempo_and_differ_in_pitch_and_rhythm():
    piece = tune(2)
    keys = gram_keys(piece.onsets, piece.pitches)
    assert len(keys) == len(piece) - GRAM_NOTES + 1
    assert np.array_equal(keys, gram_keys(piece.onsets * 1.5, piece.pitches - 7))
    assert not np.array_equal(keys, gram_keys(piece.onsets, piece.pitches[::-1]))
    assert not np.array_equal(keys, gram_keys(np.arange(len(piece), dtype=float), piece.pitches))
    assert len(np.unique(hash_keys(np.unique(keys)))) == len(np.unique(keys))
