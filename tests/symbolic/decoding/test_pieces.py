"""Requests that tokens cannot do, and prompts from the end, with MidiTok's tokens."""

from __future__ import annotations

import pytest
from band_scores import band, notes_of
from numpy_model import NumpyModel
from symusic import ControlChange, Note, Score, Tempo, TimeSignature, Track

from musiclora.errors import ConfigError
from musiclora.music.bars import bar_lines
from musiclora.symbolic.decoding.excerpt import first_bars, last_bars
from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.tokens.tokenizers import own_tokenizer, public_tokenizer


@pytest.mark.parametrize("tokenizer", [own_tokenizer, public_tokenizer], ids=["own", "public"])
@pytest.mark.parametrize(
    ("option", "request_"),
    [
        ("--accompany", {"accompany": band(0, 2)}),
        ("--infill", {"infill": band(0, 2), "to_seconds": 1.0}),
        ("--instruments", {"instruments": frozenset({0, -1})}),
    ],
)
def test_what_tokens_cannot_do_names_a_model_that_can(tokenizer, option, request_):
    own = tokenizer()
    with pytest.raises(ConfigError) as caught:
        generate_pieces(NumpyModel(own), own, GenerationRequest(9, **request_))
    assert str(caught.value).startswith(f"{option}: ")
    assert "stanford-crfm/music-small-800k" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bars", [1, 3])
def test_the_last_bars_of_a_tune_are_continued(bars):
    score = Score(480)
    score.time_signatures.append(TimeSignature(0, 4, 4))
    score.tempos = [Tempo(0, 90.0), Tempo(1920 * 3 + 5, 120.0)]
    score.tracks.append(Track(name="tune", program=73, notes=[Note(480 * i, 240, 60 + i % 11, 90) for i in range(20)]))
    tokenizer = own_tokenizer()
    request = GenerationRequest(40, prompt=score, prompt_bars=bars, from_end=True)
    piece = generate_pieces(NumpyModel(tokenizer), tokenizer, request)[0]
    assert piece.prompt_notes == 4 * bars
    quarter = piece.score.ticks_per_quarter
    found = {(note.time / quarter, note.pitch) for note in piece.score.tracks[0].notes}
    assert {(i, 60 + (20 - 4 * bars + i) % 11) for i in range(4 * bars)} <= found
    assert piece.score.tracks[0].name == "tune"


@pytest.mark.parametrize("bars", [1, 2, 5])
def test_first_and_last_bars_are_the_whole(bars):
    score = band(3, 6)
    lines = bar_lines(score, score.end())
    count = len(lines) - 1
    head, line = first_bars(score, bars)
    tail = last_bars(score, count - bars)
    assert line == lines[bars]
    early = score.ticks_per_quarter // 32
    moved = [(program, at + line, *rest) for program, at, *rest in notes_of(tail).elements()]
    expected = sorted(note for note in notes_of(score).elements() if not line - early <= note[1] < line)
    found = sorted([*notes_of(head).elements(), *moved])
    assert [note for note in found if note[1] != line or note in expected] == expected
    assert len(found) == score.note_num()
    assert tail.time_signatures[0].numerator == 3
    assert tail.key_signatures[0].key == -3


def test_an_excerpt_keeps_what_is_in_force():
    score = Score(480)
    score.tempos = [Tempo(0, 60.0), Tempo(960, 90.0), Tempo(1920, 120.0), Tempo(2400, 150.0)]
    track = Track(notes=[Note(480 * i, 100, 60, 90) for i in range(8)])
    events = [(0, 7, 10), (500, 7, 20), (0, 64, 127), (2000, 7, 5)]
    track.controls = [ControlChange(*event) for event in events]
    score.tracks.append(track)
    tail = last_bars(score, 1)
    assert [(t.time, round(t.qpm)) for t in tail.tempos] == [(0, 120), (480, 150)]
    assert [(c.time, c.number, c.value) for c in tail.tracks[0].controls] == [(0, 7, 20), (0, 64, 127), (80, 7, 5)]
    head, _ = first_bars(score, 1)
    assert [t.time for t in head.tempos] == [0, 960]
    assert [(c.time, c.value) for c in head.tracks[0].controls] == [(0, 10), (500, 20), (0, 127)]
    assert last_bars(score, 0) is score
    assert first_bars(score, 2) == (score, None)
