"""Programs: drums and instruments keep their tokens apart, restriction to some, re-priming, names of a prompt."""

from __future__ import annotations

import io

import mido
import numpy as np
import pytest
from bands import BANDS, band, instruments
from numpy_model import NumpyModel

from musiclora.errors import ConfigError
from musiclora.symbolic.decoding.grammar import grammar_for
from musiclora.symbolic.decoding.grammar.program_in_force import resume
from musiclora.symbolic.decoding.grammar.restrict import restrict_programs
from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.decoding.to_score import decode_tokens
from musiclora.symbolic.tokens.tokenizers import band_tokenizer, own_tokenizer, public_tokenizer

CHANGING = [name for name in BANDS if name.endswith("changes")]


@pytest.fixture(scope="module", params=BANDS)
def tokenizer(request):
    return BANDS[request.param]()


@pytest.fixture(scope="module")
def info(tokenizer):
    return grammar_for(tokenizer)


def walk(info, steps, seed=0, state=None):
    """Draw token types uniformly, then tokens, without EOS, up to a place where no note is half written."""
    rng, ids = np.random.default_rng(seed), []
    state = info.start if state is None else state
    kinds = np.array([sequence[0].partition("_")[0] if sequence else "" for sequence in info.tokens])
    while len(ids) < steps or not info.whole[state]:
        allowed = info.allowed(state)
        allowed[info.eos_id] = False
        kind = rng.choice(np.unique(kinds[allowed]))
        token = int(rng.choice(np.flatnonzero(allowed & (kinds == kind))))
        state = int(info.transitions[state, info.classes[token]])
        ids.append(token)
    return ids


def sounding(base):
    """List program and pitch token of each note, by the latest program."""
    program, found = None, []
    for token in base:
        if token.startswith("Program_"):
            program = int(token.partition("_")[2])
        elif token.startswith("Pitch"):
            found.append((program, token))
    return found


def test_a_band_is_let_through_and_comes_back_with_its_instruments(tokenizer, info):
    ids = tokenizer.encode(band())
    state = info.start
    for token in ids.tolist():
        state = int(info.transitions[state, info.classes[token]])
        assert state >= 0
    assert info.whole[state]
    assert instruments(tokenizer.decode(ids)) == instruments(band())


@pytest.mark.parametrize("seed", range(3))
def test_every_note_of_a_walk_has_a_program_and_drums_have_pitches_of_their_own(tokenizer, info, seed):
    base = info.base_tokens(walk(info, 800, seed))
    notes = sounding(base)
    assert len(notes) > 50
    assert not [note for note in notes if note[0] is None]
    if tokenizer.inner.config.use_pitchdrum_tokens:
        assert not [note for note in notes if (note[0] == -1) != note[1].startswith("PitchDrum")]
    decoded = decode_tokens(tokenizer.inner, base)
    assert {(-1 if t.is_drum else t.program) for t in decoded.tracks} == {program for program, _ in notes}


def test_the_band_bases_program_tokens_lead_to_pitches_of_their_own_from_every_state():
    tokenizer = band_tokenizer()
    info = grammar_for(tokenizer)
    kinds = np.array([token.partition("_")[0] for token in tokenizer.tokens])
    after = {}
    for token in np.flatnonzero(kinds == "Program"):
        states = info.transitions[:, info.classes[token]]
        after[tokenizer.tokens[token]] = np.unique(states[states >= 0])
    assert len(after) == 129
    for name, states in after.items():
        follow = {kind for state in states for kind in kinds[info.allowed(int(state))]}
        assert follow == {"PitchDrum" if name == "Program_-1" else "Pitch"}, name


@pytest.mark.parametrize("programs", [{33}, {-1}, {0, 33, -1}], ids=str)
def test_only_the_chosen_instruments_sound(tokenizer, info, programs):
    only = restrict_programs(info, tokenizer, frozenset(programs))
    notes = sounding(only.base_tokens(walk(only, 600)))
    assert {program for program, _ in notes} == programs
    grammar = only.at([only.start], tokenizer.vocab_size + 5)
    again = only.at([only.start], tokenizer.vocab_size + 5)
    assert grammar.classes is again.classes  # which the backends keep on the device
    assert grammar.transitions is again.transitions
    for state in range(0, len(only.transitions), 17):
        drawable = grammar.transitions[state, grammar.classes] >= 0
        np.testing.assert_array_equal(drawable[: len(only.classes)], only.allowed(state))
        assert not drawable[len(only.classes) :].any()


def test_after_a_prompt_of_others_the_chosen_instruments_alone_go_on(tokenizer, info):
    only = restrict_programs(info, tokenizer, frozenset({33}))
    ids = tokenizer.encode(band())  # ends with the drums in force
    assert only.state_after(ids) == info.state_after(ids)
    new = walk(only, 200, state=int(only.unsounded[only.state_after(ids)]))
    assert {program for program, _ in sounding(only.base_tokens(new))} == {33}


def test_restricted_generation_after_a_prompt_keeps_the_prompt(tokenizer):
    request = GenerationRequest(200, seed=3, prompt=band(2), instruments=frozenset({33, -1}))
    piece = generate_pieces(NumpyModel(tokenizer, 1024), tokenizer, request)[0]
    given = instruments(band(2))
    new = {program for program, *_ in set(instruments(piece.score)) - set(given)}
    assert new
    assert new <= {33, -1}
    assert set(given) <= set(instruments(piece.score))


def test_programs_that_the_tokens_lack_are_refused_in_one_line():
    few = BANDS["remi few programs"]()
    with pytest.raises(ConfigError, match=r"do not hold Trumpet; they hold Drums, Acoustic Grand Piano") as error:
        restrict_programs(grammar_for(few), few, frozenset({0, 56}))
    assert "bundled-band" in str(error.value)
    for plain in (own_tokenizer(), public_tokenizer()):
        with pytest.raises(ConfigError, match=r"one piano.*bundled-band or stanford-crfm/music-small-800k"):
            restrict_programs(grammar_for(plain), plain, frozenset({0}))


@pytest.mark.parametrize("name", CHANGING)
def test_a_context_begins_with_the_program_in_force(name):
    tokenizer = BANDS[name]()
    info = grammar_for(tokenizer)
    ids = tokenizer.encode(band(1, [(40, "Violin", [60])])).tolist()
    notes = [i for i, token in enumerate(ids) if tokenizer.tokens[token].startswith("Pitch_")]
    rest = resume(info, ids, notes[1] - 1)
    assert [tokenizer.tokens[i] for i in rest][:3] == [
        tokenizer.tokens[ids[notes[1] - 1]],
        "Program_40",
        "Pitch_60",
    ]
    assert resume(info, ids, 0) == ids


def test_tokens_that_name_each_notes_program_are_resumed_as_they_are():
    tokenizer = BANDS["remi"]()
    ids = tokenizer.encode(band()).tolist()
    assert resume(grammar_for(tokenizer), ids, 40) == ids[40:]


@pytest.mark.parametrize("name", CHANGING)
def test_long_bands_go_on_with_a_program_in_every_context(name):
    tokenizer = BANDS[name]()
    model = NumpyModel(tokenizer, n_positions=64, bar_bias=4)
    piece = generate_pieces(model, tokenizer, GenerationRequest(260, seed=5, prompt=band(3)))[0]
    assert len(model.contexts) > 4
    for context in model.contexts:
        assert len(context) < 64
        notes = sounding([token for i in context for token in [tokenizer.tokens[i]]])
        assert not [note for note in notes if note[0] is None]
    assert len(piece.ids) > 260


def test_a_continued_band_keeps_names_kits_and_programs(tokenizer):
    prompt = band(2)
    prompt.tracks[-1].program = 25  # a kit
    request = GenerationRequest(200, seed=6, prompt=prompt, count=2)
    for piece in generate_pieces(NumpyModel(tokenizer, 1024), tokenizer, request):
        assert set(instruments(prompt)) <= set(instruments(piece.score))
        names = {(t.is_drum, t.program): t.name for t in piece.score.tracks}
        assert names[False, 0] == "Keys"
        assert names[False, 25] == "Guitar L + Guitar R"
        assert names[False, 33] == "Bass"
        assert names[True, 25] == "Kit"
        assert "--prompt: 6 tracks merged into 5" in piece.remarks
        file = mido.MidiFile(file=io.BytesIO(piece.score.dumps_midi()))
        for track in file.tracks:
            channels = {m.channel for m in track if m.type == "note_on"}
            name = next((m.name for m in track if m.type == "track_name"), "")
            assert not channels or (channels == {9}) == (name == "Kit" or name == "Drums"), name


def test_a_band_on_tokens_of_one_piano_stays_a_piano_and_is_said():
    tokenizer = own_tokenizer()
    piece = generate_pieces(NumpyModel(tokenizer, 512), tokenizer, GenerationRequest(60, prompt=band(2)))[0]
    assert [(t.program, t.is_drum) for t in piece.score.tracks] == [(0, False)]
    assert "--prompt: 6 tracks merged into 1" in piece.remarks
    flute = band(2, [(73, "Flute", [70]), (73, "Second", [65])])
    piece = generate_pieces(NumpyModel(tokenizer, 512), tokenizer, GenerationRequest(60, prompt=flute))[0]
    assert [(t.program, t.name) for t in piece.score.tracks] == [(73, "Flute + Second")]


def test_more_instruments_than_channels_are_said():
    tokenizer = BANDS["remi"]()
    prompt = band(1, [(program, f"part {program}", [60]) for program in range(40)])
    piece = generate_pieces(NumpyModel(tokenizer, 1024), tokenizer, GenerationRequest(60, prompt=prompt))[0]
    assert len(piece.score.tracks) >= 40
    assert any("instruments: MIDI has 15 channels" in remark for remark in piece.remarks)
    fewer = generate_pieces(NumpyModel(tokenizer, 1024), tokenizer, GenerationRequest(30, prompt=band(1)))[0]
    programs = {t.program for t in fewer.score.tracks if not t.is_drum}
    assert len(programs) > 15 or not any("channels" in remark for remark in fewer.remarks)
