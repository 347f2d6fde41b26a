"""Prompts: what is said of their notes, metres and length."""

from __future__ import annotations

from pathlib import Path

import pytest
from symusic import Note, PitchBend, Score, TimeSignature, Track

from musiclora.symbolic.decoding.grammar import grammar_for
from musiclora.symbolic.decoding.prompt import describe_context, encode_prompt
from musiclora.symbolic.decoding.to_score import clean_score, decode_tokens
from musiclora.symbolic.tokens.tokenizer import from_json
from musiclora.symbolic.tokens.tokenizers import band_tokenizer, own_tokenizer

FOUND = Path(__file__).parents[2] / "golden" / "found"


def seven_eighths():
    score = Score(480)
    score.time_signatures.append(TimeSignature(0, 7, 8))
    score.tracks.append(Track(notes=[Note(240 * i, 200, 60 + i % 5, 80) for i in range(28)]))
    return score


def test_a_metre_that_the_tokens_write_otherwise_is_said_beside_the_notes_left_out():
    tokenizer = from_json((FOUND / "remi_programs_no_pitchdrum.json").read_text())
    score = seven_eighths()
    score.tracks[0].notes.append(Note(0, 200, 5, 80))
    left_out, metre = encode_prompt(tokenizer, grammar_for(tokenizer), score, 0).remarks
    assert left_out == "--prompt: left out 1 note outside 21..109"
    assert metre == "--prompt: its time signature has no token in this model; the piece is written in another"


def test_the_playing_that_tokens_lose_of_a_prompt_is_said():
    tokenizer = band_tokenizer()
    score = seven_eighths()
    score.tracks[0].notes.append(Note(240 * 28, 480 * 60, 60, 80))
    score.tracks[0].pitch_bends.append(PitchBend(240, 1000))
    (line,) = encode_prompt(tokenizer, grammar_for(tokenizer), score, 0).remarks
    assert line == "--prompt: the tokens lose 1 pitch bend, 1 duration over 16 beats (cut)"


def test_a_metre_that_is_written_into_the_piece_is_no_loss():
    tokenizer = own_tokenizer()
    assert encode_prompt(tokenizer, grammar_for(tokenizer), seven_eighths(), 0).remarks == ()


@pytest.mark.parametrize(("bars", "words"), [(1, "the last bar of it"), (3, "the last 3 bars of it")])
def test_the_bars_that_a_model_sees_of_a_long_prompt_are_counted_in_words(bars, words):
    tokenizer = own_tokenizer()
    info = grammar_for(tokenizer)
    assert describe_context(info, 365, [tokenizer.bar_ids[0]] * bars, 256).endswith(words)


def test_a_prompted_piece_bears_the_name_and_the_instrument_of_its_prompt():
    tokenizer, prompt = own_tokenizer(), seven_eighths()
    prompt.tracks[0].name, prompt.tracks[0].program = "Lead", 81
    info = grammar_for(tokenizer)
    score = decode_tokens(tokenizer.inner, info.base_tokens(encode_prompt(tokenizer, info, prompt, 0).ids))
    clean_score(score, prompt, cut=False)
    assert [(track.name, track.program) for track in score.tracks] == [("Lead", 81)]
