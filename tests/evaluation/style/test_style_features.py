"""Features of the style card: each measures what its name says, and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from musiclora.evaluation.style.events import piece_events, take_excerpt
from musiclora.evaluation.style.features import FEATURES

MEASURES = {feature.key: feature for feature in FEATURES}
SCALE = (60, 62, 64, 65, 67, 69, 71, 72)


def piece(rows, bars=8):
    return piece_events("piece", rows, 4.0 * np.arange(bars))


def measured(key, rows):
    """Share by label, in per cent, of the bins that are used; or the number."""
    feature = MEASURES[key]
    found = feature.measure(piece(rows))
    if found is None or not feature.labels:
        return found if found is None else float(found[0])
    assert found.shape == (len(feature.labels),)
    assert found.sum() == pytest.approx(1)
    return {label: round(100 * share) for label, share in zip(feature.labels, found, strict=True) if share}


def notes(pitches, *, step=1.0, duration=1.0, velocity=80, program=0, track=0, start=0.0):
    return [(start + step * i, duration, pitch, velocity, program, track) for i, pitch in enumerate(pitches)]


@pytest.mark.parametrize("key", range(-5, 7))
def test_pitch_classes_are_degrees_whatever_the_key(key):
    shares = measured("pitch_class", notes([pitch + key for pitch in (*SCALE, 60, 60, 64, 67)]))
    assert shares == {"1": 33, "2": 8, "3": 17, "4": 8, "5": 17, "6": 8, "7": 8}


def test_intervals_are_those_of_each_tracks_upper_line():
    upper, lower = notes([60, 64, 64, 62]), notes([48, 48, 48, 48])
    chord = [(0.0, 1.0, 55, 80, 0, 0)]  # under the first upper note: not a step
    assert measured("interval", upper + chord) == {"+4": 33, "0": 33, "-2": 33}
    assert measured("interval", upper + [(*row[:5], 1) for row in lower]) == {"+4": 17, "0": 67, "-2": 17}
    assert measured("interval", notes([40, 70, 40])) == {"+12": 50, "-12": 50}


def test_times_are_counted_by_the_nearest_note_value():
    rows = [(onset, length, 60, 80, 0, 0) for onset, length in ((0, 0.5), (0.5, 0.26), (0.75, 1.6), (2.25, 9.0))]
    assert measured("inter_onset", rows) == {"1/2": 33, "1/4": 33, "1.5": 33}
    assert measured("duration", rows) == {"1/2": 25, "1/4": 25, "1.5": 25, "4+": 25}


def test_polyphony_counts_time_not_notes():
    rows = [(0.0, 4.0, 60, 80, 0, 0), (1.0, 1.0, 64, 80, 0, 0), (6.0, 2.0, 60, 80, 0, 0)]
    assert measured("polyphony", rows) == {"0": 25, "1": 62, "2": 12}


def test_bar_positions_are_sixteenths_of_the_pieces_own_bars():
    rows = [(onset, 0.25, 60, 80, 0, 0) for onset in (0.0, 0.5, 3.99, 5.75)]  # the third is early by a hair
    assert measured("bar_position", rows) == {"0": 50, "0.5": 25, "1.75": 25}


def test_numbers_are_density_and_range():
    rows = notes([60, 72, 67, 64], step=0.5, duration=0.5)
    assert measured("note_density", rows) == pytest.approx(2.0)
    assert measured("range", rows) == 12


def test_velocities_and_instruments_are_shares_of_notes():
    rows = notes([60, 62, 64], velocity=100) + notes([36], velocity=20, program=-1, track=1)
    assert measured("velocity", rows) == {"16": 25, "96": 75}
    assert measured("instruments", rows) == {"Acoustic Grand Piano": 75, "Drums": 25}


def test_a_piece_of_drums_alone_has_no_pitches():
    rows = notes([36, 38], program=-1)
    for key in ("pitch_class", "interval", "duration", "polyphony", "range"):
        assert measured(key, rows) is None, key
    assert measured("inter_onset", rows) == {"1": 100}


@pytest.mark.parametrize("key", [feature.key for feature in FEATURES])
def test_a_piece_without_notes_has_nothing_to_measure(key):
    assert MEASURES[key].measure(piece([])) is None


def test_one_note_has_no_interval_and_no_inter_onset_time():
    assert measured("interval", notes([60])) is None
    assert measured("inter_onset", notes([60])) is None
    assert measured("pitch_class", notes([60])) == {"1": 100}


def test_excerpts_are_the_beginning_from_the_first_note():
    whole = piece(notes(SCALE * 4, start=3.0), bars=10)
    part = take_excerpt(whole, 5.0)
    assert part.onsets.tolist() == [3.0, 4.0, 5.0, 6.0, 7.0]
    assert len(take_excerpt(whole, 100.0)) == len(whole)
    assert {field.name for field in dataclasses.fields(part)} == set(vars(part))
