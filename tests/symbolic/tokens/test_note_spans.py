"""Spans of notes in tokens: they agree with what decodes, note by note."""

from __future__ import annotations

import numpy as np
import pytest
from arrival_recordings import MIDI
from symusic import Note, Score, Track
from vocabularies import TOKENIZERS, TRAINED

from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

PROGRAMS = [name for name in TOKENIZERS if name in ("pertok-programs", "remi-plus", "remi-drums")]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_each_note_has_the_tokens_from_its_program_or_pitch_to_its_last(name):
    tokenizer = MusicTokenizer(TOKENIZERS[name]())
    ids = tokenizer.encode(Score(MIDI / "trio.mid"))
    spans = tokenizer.note_spans(ids)
    assert len(spans.start) == tokenizer.note_count(ids)
    kinds = [tokenizer.tokens[i].partition("_")[0] for i in ids]
    first = "Program" if name in PROGRAMS else "Pitch"
    covered = np.zeros(len(ids), int)
    for start, stop in zip(spans.start, spans.stop, strict=True):
        covered[start:stop] += 1
        assert kinds[start] == first
        assert set(kinds[start + 1 : stop]) <= {"Pitch", "PitchDrum", "MicroTiming", "Velocity", "Duration"}
    assert covered.max() == 1
    notes = ("Pitch", "PitchDrum", "MicroTiming", "Velocity", "Duration", "Program")
    assert [kind in notes for kind in kinds] == (covered == 1).tolist()


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_of_spans_are_those_of_the_notes(name):
    tokenizer = MusicTokenizer(TOKENIZERS[name]())
    ids = tokenizer.encode(Score(MIDI / "trio.mid"))
    programs, counts = np.unique(tokenizer.note_spans(ids).program, return_counts=True)
    held = tokenizer.decode(ids)
    expected = sorted((-1 if track.is_drum else track.program, len(track.notes)) for track in held.tracks)
    assert list(zip(programs.tolist(), counts.tolist(), strict=True)) == expected


@pytest.mark.parametrize("name", TRAINED)
def test_spans_of_learnt_tokens_hold_the_notes_that_they_spell(name):
    tokenizer = MusicTokenizer(TRAINED[name]())
    score = Score(480)
    score.tracks.append(Track(program=0))
    score.tracks[0].notes = [Note(480 * i, 240, 60 + i % 5, 80) for i in range(40)]
    ids = tokenizer.encode(score)
    spans = tokenizer.note_spans(ids)
    assert len(ids) < len(tokenizer.base_ids(ids))
    assert len(spans.start) == 40
    for start, stop in zip(spans.start, spans.stop, strict=True):
        spelt = [tokenizer.tokens[i] for i in tokenizer.base_ids(ids[start:stop])]
        assert any(token.startswith("Pitch") for token in spelt)


def test_no_tokens_have_no_spans():
    spans = MusicTokenizer(TOKENIZERS["remi"]()).note_spans(np.zeros(0, np.int32))
    assert len(spans.start) == len(spans.stop) == len(spans.program) == 0
