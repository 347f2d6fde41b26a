"""Arrival-time tokens, against recordings of the original code and by construction."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from arrival_recordings import MIDI, NAMES, recorded
from symusic import Note, Score, Tempo, Track

from musiclora.convert.errors import DataError
from musiclora.symbolic.formats.midi import parse_midi
from musiclora.symbolic.tokens import arrival
from musiclora.symbolic.tokens.arrival import ArrivalTokenizer, arrival_from_json

TOKENIZER = ArrivalTokenizer()


def song(notes: list[tuple[int, int, int]], program: int = 0, ticks: int = 480, qpm: float = 120.0) -> Score:
    score = Score(ticks)
    score.tempos.append(Tempo(0, qpm))
    score.tracks.append(Track(program=program))
    for time, duration, pitch in notes:
        score.tracks[0].notes.append(Note(time, duration, pitch, 64))
    return score


def notes_of(score: Score) -> np.ndarray:
    """Time, duration, pitch and instrument of each note in order, int [n, 4]."""
    notes = [
        (note.time, note.duration, note.pitch, arrival.DRUM_INSTRUMENT if track.is_drum else track.program)
        for track in score.tracks
        for note in track.notes
    ]
    return np.array(sorted(notes))


@pytest.mark.parametrize("name", NAMES)
def test_events_of_a_file_equal_the_originals(name):
    (parsed,) = parse_midi((MIDI / f"{name}.mid").read_bytes())
    assert TOKENIZER.encode(parsed.score).reshape(-1, 3).tolist() == recorded(name, "events").tolist()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "loose_ends"])
def test_a_score_by_symusic_gives_the_originals_events_unless_it_leaves_notes_out(name):
    found = TOKENIZER.encode(Score(MIDI / f"{name}.mid"))
    assert found.reshape(-1, 3).tolist() == recorded(name, "events").tolist()


@pytest.mark.parametrize("name", NAMES)
def test_decoded_notes_equal_the_originals(name):
    ids = recorded(name, "events").ravel()
    score = TOKENIZER.decode(ids)
    assert np.array_equal(notes_of(score), sorted(recorded(name, "notes_back").tolist()))
    counts = sorted((arrival.DRUM_INSTRUMENT if t.is_drum else t.program, len(t.notes)) for t in score.tracks)
    assert np.array_equal(counts, recorded(name, "instruments"))
    assert TOKENIZER.note_count(ids) == len(ids) // 3


@pytest.mark.parametrize("name", NAMES)
def test_decoded_notes_encode_to_the_same_events(name):
    ids = recorded(name, "events").ravel()
    again = TOKENIZER.encode(TOKENIZER.decode(ids))
    assert sorted(map(tuple, again.reshape(-1, 3))) == sorted(map(tuple, ids.reshape(-1, 3)))
    assert np.array_equal(TOKENIZER.encode(TOKENIZER.decode(again)), again)


def test_onset_and_length_are_rounded_to_even_halves_and_long_notes_are_cut():
    # at 120 quarters a minute and 200 ticks a quarter, a tick is 2.5 ms
    found = TOKENIZER.encode(song([(2, 2, 60), (6, 6, 61), (20, 4_000, 62)], program=7, ticks=200)).reshape(-1, 3)
    assert found[:, 0].tolist() == [0, 2, 5]
    assert (found[:, 1] - arrival.DUR_OFFSET).tolist() == [0, 2, 999]
    assert (found[:, 2] - arrival.NOTE_OFFSET).tolist() == [7 * 128 + 60, 7 * 128 + 61, 7 * 128 + 62]


def test_the_time_of_a_long_song_exceeds_its_block():
    ids = TOKENIZER.encode(song([(0, 480, 60), (960 * 500, 480, 60)]))
    assert ids.dtype == np.int32
    assert ids[3] == 50_000
    assert [note.time for note in TOKENIZER.decode(ids).tracks[0].notes] == [0, 50_000]


def test_tokens_that_are_no_event_are_left_out_and_controls_are_notes():
    event = np.array([5, arrival.DUR_OFFSET + 3, arrival.NOTE_OFFSET + 128 * arrival.DRUM_INSTRUMENT + 40])
    ids = np.concatenate(
        [
            [arrival.ANTICIPATE],
            [arrival.SEPARATOR] * 3,
            event + arrival.CONTROL_OFFSET,
            [100, arrival.DUR_OFFSET, arrival.REST],
            event,
            [7, 7, 7],
            event[:2],
        ]
    )
    score = TOKENIZER.decode(ids)
    assert notes_of(score).tolist() == [[5, 3, 40, arrival.DRUM_INSTRUMENT]] * 2
    assert [track.is_drum for track in score.tracks] == [True]
    spans = TOKENIZER.note_spans(ids)
    assert (spans.start.tolist(), spans.stop.tolist(), spans.program.tolist()) == ([4, 10], [7, 13], [-1, -1])
    assert TOKENIZER.note_count(ids) == 2
    assert TOKENIZER.decode(np.zeros(0, np.int32)).note_num() == 0


def test_the_instruments_with_the_most_notes_stay_of_more_than_fifteen():
    score = song([(0, 480, 60)])
    for program in range(1, 18):
        score.tracks.append(Track(program=program, is_drum=program == 17))
        score.tracks[-1].notes = [Note(480 * i, 240, 60, 64) for i in range(program)]
    held = TOKENIZER.hold(score)
    assert [track.program for track in held.tracks] == list(range(2, 18))
    assert held.tracks[-1].is_drum
    assert len(score.tracks) == 18
    fifteen = song([(0, 480, 60)])
    assert TOKENIZER.hold(fifteen) == fifteen


@pytest.mark.parametrize("ids", [[-1, 10_000, 11_000], [0, 55_028, 11_000], [0, 10_000, 60_000]])
def test_ids_outside_the_vocabulary_are_refused(ids):
    with pytest.raises(DataError, match="but ArrivalTime tokens have 55028"):
        TOKENIZER.decode(np.array(ids))


def test_a_tokenizer_pickles_and_comes_back_from_its_file(tmp_path):
    TOKENIZER.save(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text()
    for copy in (pickle.loads(pickle.dumps(ArrivalTokenizer(inferred=True))), arrival_from_json(text, inferred=True)):
        assert copy.fingerprint == TOKENIZER.fingerprint
        assert copy.inferred
    with pytest.raises(DataError, match="version is 2, this version reads 1"):
        arrival_from_json(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(DataError, match="not a tokenizer of arrival-time tokens"):
        arrival_from_json(text[:-2])
