"""Grammars of MidiTok vocabularies: they accept what MidiTok writes, and what they accept decodes."""

from __future__ import annotations

import io
import itertools

import mido
import numpy as np
import pytest
from miditok import CPWord, MIDILike, TokenizerConfig
from miditok.classes import TokSequence
from symusic import Score
from vocabularies import TOKENIZERS, TRAINED, trained, tune

from musiclora.errors import DataError
from musiclora.symbolic.decoding.grammar import GrammarInfo, grammar_for


@pytest.fixture(scope="module", params=[*TOKENIZERS, *TRAINED])
def tokenizer(request):
    return (TOKENIZERS | TRAINED)[request.param]()


@pytest.fixture(scope="module")
def info(tokenizer) -> GrammarInfo:
    return grammar_for(tokenizer)


def walk(info: GrammarInfo, seed: int, steps: int, end: bool = False) -> list[int]:
    """Draw allowed tokens uniformly without EOS, up to the next place where a piece may be cut."""
    rng = np.random.default_rng(seed)
    state, ids = info.start, []
    while len(ids) < steps or not info.whole[state]:
        allowed = info.allowed(state)
        if info.eos_id is not None:
            allowed[info.eos_id] = False
        token = int(rng.choice(np.flatnonzero(allowed)))
        state = int(info.transitions[state, info.classes[token]])
        ids.append(token)
    return ids


def decode(tokenizer, info: GrammarInfo, ids: list[int]) -> Score:
    sequence = TokSequence(tokens=info.base_tokens(ids))
    return tokenizer.decode(sequence if tokenizer.one_token_stream else [sequence])


@pytest.mark.parametrize("seed", range(3), ids=lambda seed: f"seed{seed}")
def test_random_walk_decodes_every_note_in_rising_order(tokenizer, info, seed):
    ids = walk(info, seed, 2500)
    written = [t for t in info.base_tokens(ids) if t.startswith(("Pitch", "NoteOn"))]
    score = decode(tokenizer, info, ids)
    assert sum(len(track.notes) for track in score.tracks) == len(written)
    if not tokenizer.config.use_programs:
        times = [note.time for note in score.tracks[0].notes]
        # microtiming shifts a note by up to 40 ticks either way
        wobble = 80 if any(t.startswith("MicroTiming") for t in info.base_tokens(ids)) else 0
        assert all(later >= earlier - wobble for earlier, later in itertools.pairwise(times))


def test_random_walk_opens_in_symusic_and_mido(tokenizer, info):
    score = decode(tokenizer, info, walk(info, 9, 400))
    for track in score.tracks:
        for note in track.notes:
            note.time = max(0, note.time)  # microtiming before the first beat, see generation
    data = score.dumps_midi()
    assert Score.from_midi(data).end() > 0
    assert mido.MidiFile(file=io.BytesIO(data)).length > 0


def test_special_tokens_are_never_allowed_except_eos_after_a_note(tokenizer, info):
    specials = [i for t, i in tokenizer.vocab.items() if t in {"PAD_None", "BOS_None", "MASK_None"}]
    for state in range(len(info.transitions)):
        assert not info.allowed(state)[specials].any()
    assert not info.allowed(info.start)[info.eos_id]
    ids = walk(info, 1, 60)
    state = info.state_after(ids)
    assert info.allowed(state)[info.eos_id]
    assert not info.allowed(int(info.unsounded[state]))[info.eos_id]
    ended = info.step(state, info.eos_id)
    assert np.flatnonzero(info.allowed(ended)).tolist() == [info.eos_id]


def test_every_state_allows_a_token(info):
    assert (info.transitions >= 0).any(axis=1).all()
    assert info.classes.min() >= 0
    assert info.classes.max() < info.transitions.shape[1]


@pytest.mark.parametrize("seed", range(4), ids=lambda seed: f"seed{seed}")
def test_what_the_tokenizer_writes_is_let_through(tokenizer, info, seed):
    encoded = tokenizer.encode(tune(seed=seed))
    ids = (encoded if tokenizer.one_token_stream else encoded[0]).ids
    state = info.start
    for place, token in enumerate(ids):
        following = info.transitions[state, info.classes[token]]
        assert following >= 0, (place, info.tokens[token], [info.tokens[i] for i in ids[max(0, place - 6) : place]])
        state = int(following)
    assert info.whole[state]
    assert info.base_tokens(ids) == [t for i in ids for t in info.tokens[i]]
    assert info.state_after(ids) == state


def test_state_after_skips_specials_and_survives_tokens_out_of_place(tokenizer, info):
    ids = walk(info, 2, 40)
    assert info.state_after([info.bos_id, *ids]) == info.state_after(ids)
    shuffled = np.random.default_rng(0).permutation(ids)
    assert 0 <= info.state_after(shuffled) < len(info.transitions)


def test_learned_tokens_begin_bars_where_their_first_base_token_does():
    tokenizer = trained("remi")
    info = grammar_for(tokenizer)
    longer = [t for t in info.tokens if len(t) > 1]
    assert len(longer) > 50
    assert info.tokens[info.eos_id] == ("EOS_None",)
    assert info.tokens[info.bos_id] == ("BOS_None",)
    assert len(info.tokens) <= tokenizer.vocab_size
    assert [bool(opens) for opens in info.opens_bar] == [bool(t) and t[0] == "Bar_None" for t in info.tokens]
    assert info.transitions.shape[1] < len(info.tokens)
    ids = tokenizer.encode(tune(seed=3))[0].ids
    assert max(ids) >= len(tokenizer.vocab)
    assert info.base_tokens(ids) == tokenizer.encode(tune(seed=3), encode_ids=False)[0].tokens


def test_pertok_shifts_never_reach_the_bar_line():
    tokenizer = TOKENIZERS["pertok"]()
    assert tokenizer.vocab_size == 292  # the public base's
    info = grammar_for(tokenizer)
    ids = {token: i for token, i in tokenizer.vocab.items()}
    before = info.state_after([ids["TimeShift_3.0.320"]])
    allowed = {info.tokens[i][0] for i in np.flatnonzero(info.allowed(before))}
    assert all(token.startswith("Pitch") for token in allowed)
    note = [ids["Pitch_60"], ids["Velocity_79"], ids["Duration_1.0.320"]]
    allowed = {
        info.tokens[i][0] for i in np.flatnonzero(info.allowed(info.state_after([ids["TimeShift_3.0.320"], *note])))
    }
    assert "TimeShift_0.280.320" in allowed
    assert "TimeShift_1.0.320" not in allowed
    assert not any(token.startswith("Rest") for token in allowed)


def test_several_vocabularies_are_refused():
    with pytest.raises(DataError, match="CPWord has several vocabularies"):
        grammar_for(CPWord(TokenizerConfig()))


@pytest.mark.parametrize("kind", [MIDILike], ids=lambda kind: kind.__name__)
def test_a_tokenizer_without_positions_gets_a_note(kind):
    info = grammar_for(kind(TokenizerConfig()))
    assert kind.__name__ in info.note
    assert (info.transitions >= 0).any(axis=1).all()
