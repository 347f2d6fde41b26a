"""The style card: real sets, one change at a time, scale, baseline, and sets that are too small."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from symusic import Score

from musiclora.bundled import BUNDLED
from musiclora.errors import DataError
from musiclora.evaluation.style.compare import compare_styles
from musiclora.evaluation.style.events import piece_events
from musiclora.evaluation.style.features import FEATURES
from musiclora.symbolic.style import events_of

KEYS = [feature.key for feature in FEATURES]


@pytest.fixture(scope="module")
def songs():
    return [events_of(path.stem, Score(str(path))) for path in sorted((BUNDLED / "songs").glob("*.mid"))]


@pytest.fixture(scope="module")
def plain(songs):
    return compare_styles(songs[::3], songs[1::3], rest=songs[2::3])


def by_feature(card):
    return {row.feature.key: row for row in card.rows}


def test_an_artist_is_as_near_to_himself_as_the_scale_says(plain):
    assert list(by_feature(plain)) == KEYS
    assert plain.real.overlap.low <= plain.generated.overlap.value
    assert plain.generated.overlap.value > 0.8
    assert 0.7 < plain.generated.spread.value < 1.3
    assert any("as near as" in line for line in plain.lines())


CHANGES = {
    "interval": lambda s: dataclasses.replace(s, pitches=60 + (s.pitches - 60) * 2),
    "duration": lambda s: dataclasses.replace(s, durations=s.durations * 4),
    "velocity": lambda s: dataclasses.replace(s, velocities=s.velocities // 3),
    "bar_position": lambda s: dataclasses.replace(s, onsets=s.onsets + 0.25),
    "note_density": lambda s: s.select(np.arange(len(s)) % 4 == 0),
    "range": lambda s: dataclasses.replace(s, pitches=60 + s.pitches % 12),
    "instruments": lambda s: dataclasses.replace(s, programs=np.where(s.programs < 0, -1, 40)),
}
UNTOUCHED = {
    "interval": ("inter_onset", "velocity", "instruments", "note_density"),
    "duration": ("pitch_class", "interval", "inter_onset", "velocity", "range"),
    "velocity": ("pitch_class", "interval", "inter_onset", "duration", "polyphony", "note_density"),
    "bar_position": ("pitch_class", "interval", "inter_onset", "duration", "velocity", "polyphony"),
    "note_density": ("velocity",),
    "range": ("pitch_class", "inter_onset", "duration", "velocity", "instruments"),
    "instruments": ("pitch_class", "interval", "inter_onset", "duration", "velocity", "range"),
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_shows_in_its_feature_and_not_in_others(songs, plain, key):
    changed = [CHANGES[key](song) for song in songs[1::3]]
    before, after = by_feature(plain), by_feature(compare_styles(songs[::3], changed, rest=songs[2::3]))
    assert after[key].generated.overlap.value < before[key].generated.overlap.value - 0.2
    assert after[key].generated.overlap.value < after[key].real.overlap.low
    for other in UNTOUCHED[key]:
        # Excerpts end at other notes where durations change, so that a few notes differ.
        assert after[other].generated.overlap.value == pytest.approx(before[other].generated.overlap.value, abs=0.12)


def test_pieces_in_other_keys_are_the_same_style(songs, plain):
    moved = [
        dataclasses.replace(s, pitches=np.where(s.programs < 0, s.pitches, s.pitches + 3 - i % 7))
        for i, s in enumerate(songs[1::3])
    ]
    other = compare_styles(songs[::3], moved, rest=songs[2::3])
    assert other.generated.overlap.value == pytest.approx(plain.generated.overlap.value, abs=0.02)


def test_one_piece_over_and_over_has_no_spread(songs):
    card = compare_styles(songs[::3], [songs[1]] * 6, rest=songs[2::3])
    assert card.generated.spread.value == pytest.approx(0.0, abs=1e-9)
    assert card.generated.overlap.value < card.real.overlap.low


def tunes(seed, count, step):
    """Random melodies in quarter or eighth notes."""
    rng = np.random.default_rng(seed)
    return [
        piece_events(
            f"{seed}-{i}",
            [(step * k, step, 60 + int(rng.integers(0, 12)), 80, 0, 0) for k in range(64)],
            4.0 * np.arange(32),
        )
        for i in range(count)
    ]


def test_the_gain_over_a_baseline_has_an_interval():
    artist, near, far = tunes(1, 12, 1.0), tunes(2, 10, 1.0), tunes(3, 10, 0.5)
    card = compare_styles(artist, near, far, matched=True)
    assert card.gain.low > 0.1
    assert card.gain.low <= card.gain.value <= card.gain.high
    assert any(line.startswith("nearer to the artist than the baseline") for line in card.lines())
    swapped = compare_styles(artist, far, near, matched=True)
    assert swapped.gain.value == pytest.approx(-card.gain.value, abs=1e-9)
    assert any(line.startswith("farther from the artist") for line in swapped.lines())
    same = compare_styles(artist, near, tunes(4, 10, 1.0))
    assert same.gain.low < 0 < same.gain.high
    assert any(line.startswith("not nearer than the baseline beyond chance") for line in same.lines())


def test_halves_of_the_reference_are_the_scale_without_other_songs():
    card = compare_styles(tunes(1, 12, 1.0), tunes(2, 8, 1.0))
    assert card.real.overlap.low <= card.real.overlap.value <= card.real.overlap.high
    few = compare_styles(tunes(1, 7, 1.0), tunes(2, 8, 1.0))
    assert few.real is None
    assert any("no scale" in note for note in few.notes)
    assert few.lines()[1].split() == ["overlap", "95", "%", "interval"]


def test_intervals_hold_their_value_and_json_is_finite():
    card = compare_styles(tunes(1, 12, 1.0), tunes(2, 8, 1.0), tunes(3, 8, 0.5), tunes(5, 9, 1.0))
    for _, scores in card.table():
        for score in scores:
            assert score.overlap.low <= score.overlap.value <= score.overlap.high
            assert 0 <= score.overlap.low
            assert score.overlap.high <= 1
    found = json.loads(json.dumps(card.as_json(), allow_nan=False))["style"]
    assert found["pieces"] == {"reference": 12, "generated": 8, "baseline": 8, "rest": 9}
    assert found["baseline"]["overlap"] == card.baseline.overlap.value
    assert found["features"]["interval"]["distributions"]["bins"][12] == "0"
    assert len(found["features"]["range"]["distributions"]["reference"]) == 12


def test_pieces_of_drums_leave_pitch_out_with_a_remark():
    drums = [dataclasses.replace(tune, programs=np.full(len(tune), -1)) for tune in tunes(2, 6, 1.0)]
    card = compare_styles(tunes(1, 8, 1.0), drums)
    assert "pitch_class" not in by_feature(card)
    assert any("too few pieces have a pitch class" in note for note in card.notes)
    assert "inter_onset" in by_feature(card)


@pytest.mark.parametrize(("songs_there", "pieces", "said"), [(3, 5, "--reference-dir"), (5, 1, "--generated-dir")])
def test_too_few_pieces_are_refused(songs_there, pieces, said):
    empty = piece_events("empty", [], [])
    with pytest.raises(DataError, match=said):
        compare_styles([*tunes(1, songs_there, 1.0), empty], [*tunes(2, pieces, 1.0), empty])


def test_a_hundred_pieces_of_a_set_are_compared():
    card = compare_styles(tunes(1, 130, 1.0), tunes(2, 4, 1.0))
    assert card.counts["reference"] == 100
    assert any("100 of the 130 reference pieces" in note for note in card.notes)
