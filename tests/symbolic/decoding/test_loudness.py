"""Loudness of instruments by place in the bar."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy_model import NumpyModel
from symusic import Note, Score, TimeSignature, Track

from musiclora.symbolic.dataset.pieces import load_pieces, read_token_cache, write_token_cache
from musiclora.symbolic.decoding.loudness import (
    BAR,
    BEAT,
    OFF_BEAT,
    Loudness,
    accent_places,
    find_loudness,
    loudness_from_json,
    measure_loudness,
    set_loudness,
    sum_loudness,
)
from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.tokens.arrival import ArrivalTokenizer
from musiclora.symbolic.tokens.tokenizers import own_tokenizer, public_tokenizer


def score_of(notes, *, metre=(4, 4), program=0, drums=False, quarter=480):
    score = Score(quarter)
    score.time_signatures = [TimeSignature(0, *metre)]
    track = Track(program=program, is_drum=drums)
    track.notes = [Note(at, 100, 60, velocity) for at, velocity in notes]
    score.tracks.append(track)
    return score


@pytest.mark.parametrize(
    ("metre", "bars", "beats", "between"),
    [
        ((4, 4), [0, 1920], [480, 960, 2400], [240, 700, 1680]),
        ((3, 4), [0, 1440], [480, 960, 1920], [240, 1200]),
        ((6, 8), [0, 1440], [720, 2160], [240, 480, 960]),
        ((2, 2), [0, 1920], [960], [480, 1440]),
    ],
    ids=str,
)
def test_places_of_the_bar(metre, bars, beats, between):
    score = score_of([], metre=metre)
    for ticks, place in ((bars, BAR), (beats, BEAT), (between, OFF_BEAT)):
        for shift in (0, 19, -19) if place != OFF_BEAT else (0,):  # played a little late or early
            found = accent_places(score, np.maximum(0, np.array(ticks) + shift))
            assert (found == place).all(), (metre, place, shift)


def test_places_follow_a_change_of_metre():
    score = score_of([])
    score.time_signatures = [TimeSignature(0, 4, 4), TimeSignature(1920, 6, 8)]
    assert accent_places(score, np.array([480, 1920, 2400, 2640, 3360])).tolist() == [BEAT, BAR, OFF_BEAT, BEAT, BAR]


def test_what_songs_have_comes_back():
    songs = [score_of([(0, 90), (1920, 92), (480, 70), (960, 72), (240, 50)], program=33) for _ in range(3)]
    songs.append(score_of([(0, 110), (480, 105)], drums=True))
    found = sum_loudness(measure_loudness(song) for song in songs)
    assert found.velocities[33] == (91, 71, 50)
    assert found.velocities[-1][:2] == (110, 105)
    assert 1 <= found.velocities[-1][OFF_BEAT] < 110  # a place without notes: the instrument's middle, with an accent
    assert found.of(33, np.array([OFF_BEAT, BAR])).tolist() == [50, 91]
    assert found.of(5, np.array([BAR, OFF_BEAT])).tolist() == Loudness().of(5, np.array([BAR, OFF_BEAT])).tolist()


def test_songs_that_are_equally_loud_throughout_say_nothing():
    assert not len(measure_loudness(score_of([(0, 80), (480, 80)])))


def test_loudness_is_given_to_all_notes():
    score = score_of([(0, 1), (480, 1), (720, 1)], program=33)
    score.tracks.append(Track(is_drum=True, notes=[Note(1920, 9, 38, 1)]))
    set_loudness(score, Loudness({33: (90, 80, 70), -1: (60, 50, 40)}))
    assert [note.velocity for track in score.tracks for note in track.notes] == [90, 80, 70, 60]


def test_long_songs_count_by_their_notes():
    short = score_of([(0, 20), (480, 30)])
    long = score_of([(480, 30), *((1920 * i, 100) for i in range(9))])
    assert sum_loudness(map(measure_loudness, [short, long])).velocities[0][BAR] == 100


def test_the_record_is_read_back():
    loudness = Loudness({0: (1, 64, 127), -1: (90, 80, 70)})
    record = json.loads(json.dumps({"loudness": loudness.as_json()}))
    assert loudness_from_json(record) == loudness
    assert find_loudness([{}, record, {"loudness": {"0": [1, 2, 3]}}]) == loudness
    assert sum_loudness([]).as_json() == {}


@pytest.mark.parametrize(
    "damaged",
    [None, {}, [], 7, {"x": [1, 2, 3]}, {"0": [1, 2]}, {"0": [0, 1, 2]}, {"200": [1, 2, 3]}, {"0": ["a", 1, 2]}],
)
def test_a_damaged_record_is_none(damaged):
    assert loudness_from_json({"loudness": damaged}) is None


@pytest.mark.parametrize("tokenizer", [ArrivalTokenizer, own_tokenizer, public_tokenizer], ids=lambda f: f.__name__)
def test_reading_measures_what_the_tokens_lack(tokenizer, tmp_path):
    songs = tmp_path / "songs"
    songs.mkdir()
    score = score_of([(480 * i, (95, 75)[i % 2]) for i in range(12)])
    score.dump_midi(str(songs / "one.mid"))
    found = load_pieces(songs, tokenizer(), workers=1)
    expected = tuple(measure_loudness(score).tolist())
    assert found.pieces[0].loudness == (() if tokenizer is public_tokenizer else expected)  # which has velocities
    write_token_cache(tmp_path / "cache", found, tokenizer())
    assert read_token_cache(tmp_path / "cache", tokenizer()).pieces[0].loudness == found.pieces[0].loudness


def test_midi_tok_pieces_get_the_loudness_of_the_songs():
    tokenizer = own_tokenizer()
    request = GenerationRequest(60, loudness=Loudness({0: (90, 80, 70)}))
    piece = generate_pieces(NumpyModel(tokenizer), tokenizer, request)[0]
    assert {note.velocity for track in piece.score.tracks for note in track.notes} <= {90, 80, 70}
    assert any("training songs" in remark for remark in piece.remarks)
    plain = generate_pieces(NumpyModel(tokenizer), tokenizer, GenerationRequest(60))[0]
    assert not any("loudness" in remark for remark in plain.remarks)
