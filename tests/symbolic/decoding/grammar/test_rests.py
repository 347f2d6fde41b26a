"""REMI with rests, alone and with metres: what MidiTok writes is let through, and time never runs backwards."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miditok import REMI, TokenizerConfig
from symusic import Note, Score, Tempo, TimeSignature, Track
from vocabularies import ONE_STREAM, PLAIN, SIGNED

from musiclora.music.bars import bar_lines
from musiclora.symbolic.decoding.grammar import grammar_for
from musiclora.symbolic.decoding.prompt import encode_prompt
from musiclora.symbolic.decoding.to_score import decode_tokens
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

RESTS = PLAIN | {"use_rests": True}
CONFIGS = {
    "rests": RESTS,
    "rests, tempos": RESTS | {"use_tempos": True},
    "rests, metres": RESTS | SIGNED,
    "rests, metres, tempos, programs": RESTS | SIGNED | ONE_STREAM | {"use_tempos": True},
}
TOKENIZERS = {name: MusicTokenizer(REMI(TokenizerConfig(**config))) for name, config in CONFIGS.items()}
GRAMMARS = {name: grammar_for(tokenizer) for name, tokenizer in TOKENIZERS.items()}
QUAVER = 240
EACH = pytest.mark.parametrize("name", CONFIGS)


@st.composite
def pieces(draw: st.DrawFn) -> Score:
    """Build a piece of quavers in changing metres, with gaps of up to some bars."""
    score = Score(480)
    score.tempos = [Tempo(0, 120.0)]
    line = 0
    for numerator, denominator in draw(st.lists(st.sampled_from([(2, 4), (3, 4), (4, 4), (6, 8)]), min_size=1)):
        score.time_signatures.append(TimeSignature(line, numerator, denominator))
        line += 480 * 4 * numerator // denominator
    score.tracks.append(Track(program=0))
    onset = 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 24), st.sampled_from([1, 2, 3])), min_size=1)):
        onset += gap * QUAVER
        score.tracks[0].notes.append(Note(onset, length * QUAVER, 60, 64))
        onset += length * QUAVER
    return score


def notes_of(score: Score) -> list[tuple[float, float, int]]:
    quarter = score.ticks_per_quarter
    return sorted((n.time / quarter, n.duration / quarter, n.pitch) for track in score.tracks for n in track.notes)


@EACH
@settings(max_examples=60, deadline=None)
@given(score=pieces())
def test_what_is_written_with_rests_decodes_and_is_let_through(name, score):
    tokenizer, info = TOKENIZERS[name], GRAMMARS[name]
    ids = tokenizer.encode(score)
    assert notes_of(tokenizer.decode(ids)) == notes_of(score)
    state = info.start
    for token in ids.tolist():
        state = int(info.transitions[state, info.classes[token]])
        assert state >= 0
    assert info.base_tokens(ids) == [tokenizer.tokens[i] for i in ids]
    assert notes_of(decode_tokens(tokenizer.inner, info.base_tokens(ids))) == notes_of(score)


@EACH
@pytest.mark.parametrize("seed", range(4))
def test_a_walk_keeps_time_and_changes_metre_at_bar_lines(name, seed):
    tokenizer, info = TOKENIZERS[name], GRAMMARS[name]
    kinds = np.array([token.partition("_")[0] for token in tokenizer.tokens])
    rng, state, ids = np.random.default_rng(seed), info.start, []
    while len(ids) < 600 or not info.whole[state]:
        allowed = info.allowed(state)
        allowed[info.eos_id] = False
        kind = rng.choice(np.unique(kinds[allowed]))
        ids.append(int(rng.choice(np.flatnonzero(allowed & (kinds == kind)))))
        state = int(info.transitions[state, info.classes[ids[-1]]])
    base = info.base_tokens(ids)
    score = decode_tokens(tokenizer.inner, base)
    assert {"Rest", "Bar"} <= {token.partition("_")[0] for token in base}
    assert {s.time for s in score.time_signatures} <= set(bar_lines(score, score.end()))
    onsets = [len(info.base_tokens(ids[: i + 1])) for i in range(len(ids)) if kinds[ids[i]] == "Duration"]
    ends = [decode_tokens(tokenizer.inner, base[:i]) for i in onsets[:: len(onsets) // 12]]
    latest = [max(note.time for track in end.tracks for note in track.notes) for end in ends]
    assert all(later >= earlier for earlier, later in itertools.pairwise(latest))
    assert info.base_tokens(ids) == base


@EACH
def test_a_prompt_goes_on_at_its_bar_line_though_rests_passed_some_without_a_token(name):
    tokenizer, info = TOKENIZERS[name], GRAMMARS[name]
    score = Score(480)
    score.time_signatures, score.tempos = [TimeSignature(0, 4, 4)], [Tempo(0, 120.0)]
    score.tracks.append(Track(program=0))
    score.tracks[0].notes = [Note(1920 * bar + 480, 480, 60, 64) for bar in (0, 3, 4, 8)]
    prompt = encode_prompt(tokenizer, info, score, 6)
    assert info.count_lines(prompt.ids) == 6
    ids = {token: i for i, token in enumerate(tokenizer.tokens)}
    new = [ids[token] for token in ("Position_0", "Program_0", "Pitch_72", "Duration_1.0.8") if token in ids]
    found = notes_of(decode_tokens(tokenizer.inner, info.base_tokens([*prompt.ids, *new])))
    assert found == [(1.0, 1.0, 60), (13.0, 1.0, 60), (17.0, 1.0, 60), (24.0, 1.0, 72)]
