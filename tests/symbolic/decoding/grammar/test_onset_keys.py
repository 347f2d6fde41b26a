"""Notes that may sound once at an onset, over MidiTok vocabularies."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from symusic import Note, Score, Tempo, Track
from vocabularies import TOKENIZERS, trained

from musiclora.backends.base import Grammar
from musiclora.backends.token_requests import check_grammar
from musiclora.cli import main
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.sampling import OpenKeys
from musiclora.symbolic.decoding.grammar import GrammarInfo, grammar_for
from musiclora.symbolic.decoding.grammar.onset_keys import count_notes_at_once, with_limit
from musiclora.symbolic.decoding.to_score import decode_tokens

BUILDERS = {**TOKENIZERS, "trained": lambda: trained("remi")}


@pytest.fixture(scope="module", params=BUILDERS)
def tokenizer(request):
    return BUILDERS[request.param]()


@pytest.fixture(scope="module")
def info(tokenizer) -> GrammarInfo:
    return grammar_for(tokenizer)


def band(programs=(0, 40), bars: int = 4) -> Score:
    """Build chords of three notes in each of two instruments, the same pitches in both."""
    score = Score(480)
    for program in programs:
        track = Track(program=program)
        for beat in range(bars * 4):
            track.notes.extend([Note(beat * 480, 480, 60 + 4 * i + beat % 5, 90) for i in range(3)])
        score.tracks.append(track)
    score.tempos.append(Tempo(0, 100.0))
    return score


def encode(tokenizer) -> list[int]:
    encoded = tokenizer.encode(band() if tokenizer.one_token_stream else band((0,)))
    return list((encoded if tokenizer.one_token_stream else encoded[0]).ids)


def sampled(info: GrammarInfo, seed: int, steps: int) -> list[int]:
    """Draw from the allowed tokens, five times as often from those that begin no new onset."""
    rng, state, keys, ids = np.random.default_rng(seed), info.start, OpenKeys(info.keys), []
    while len(ids) < steps or not info.whole[state]:
        weights = (info.allowed(state) & keys.allowed()) * np.where(info.keys.opens, 0.2, 1.0)
        if info.eos_id is not None:
            weights[info.eos_id] = 0
        ids.append(int(rng.choice(len(weights), p=weights / weights.sum())))
        state = int(info.transitions[state, info.classes[ids[-1]]])
        keys.follow(ids[-1])
    return ids


def onsets(tokenizer, info, ids) -> list[tuple[int, int, int]]:
    """List instrument, onset and pitch of each note, without the clean-up of `decode_tokens`."""
    from miditok import TokSequence

    sequence = TokSequence(tokens=info.base_tokens(ids))
    score = tokenizer.decode(sequence if tokenizer.one_token_stream else [sequence])
    return [(t.program - 1000 * t.is_drum, n.time, n.pitch) for t in score.tracks for n in t.notes]


def test_no_note_is_drawn_twice_at_an_onset(tokenizer, info):
    ids = sampled(info, 3, 1500)
    notes = onsets(tokenizer, info, ids)
    microtimed = any(token.startswith("MicroTiming") for token in tokenizer.vocab)
    if not (microtimed or tokenizer.is_trained):
        assert len(set(notes)) == len(notes)
    cleaned = decode_tokens(tokenizer, info.base_tokens(ids))
    assert cleaned.note_num() == len(set(notes))


@pytest.mark.parametrize("limit", [1, 4])
def test_an_onset_holds_at_most_so_many_notes(tokenizer, info, limit):
    bounded = dataclasses.replace(info, keys=with_limit(info.keys, limit))
    ids = sampled(bounded, 4, 600)
    longest = max(sum(part.startswith(("Pitch", "NoteOn")) for part in tokens) for tokens in info.tokens)
    assert count_notes_at_once(info.keys, [np.array(ids)]) <= limit
    assert longest == 1 or tokenizer.is_trained


def test_what_the_tokenizer_writes_has_open_keys(tokenizer, info):
    ids = encode(tokenizer)
    keys = OpenKeys(info.keys)
    for place, token in enumerate(ids):
        assert keys.allowed()[token], (place, info.tokens[token])
        keys.follow(token)


def test_notes_at_once_are_counted_over_all_instruments(tokenizer, info):
    found = count_notes_at_once(info.keys, [np.array(encode(tokenizer))])
    if tokenizer.is_trained:  # an id of several notes counts once
        assert 1 <= found <= 3
    else:
        assert found == (6 if tokenizer.config.use_programs else 3)


def test_the_backends_accept_the_rule_in_every_state(info):
    check_grammar(Grammar(info.classes, info.transitions, 0, info.keys), 1, len(info.classes))


def sizes_of_onsets(path) -> list[int]:
    times = [note.time for track in Score(path).tracks for note in track.notes]
    return list(np.unique(times, return_counts=True)[1])


@pytest.fixture
def adapter(tiny_base, tmp_path):
    """An adapter whose songs had two notes at once."""
    spec, state = LoraSpec(2, 2.0, 0.0, ("c_attn",)), {}
    for module, (out, inputs) in read_checkpoint(tiny_base).config.linear_shapes().items():
        if module.endswith("c_attn"):
            state[f"{module}.lora_A.weight"] = np.ones((2, inputs), np.float32)
            state[f"{module}.lora_B.weight"] = np.full((out, 2), 1e-3, np.float32)
    write_peft(tmp_path / "a", spec, state, base_model=str(tiny_base), record={"notes_at_once": 2})
    return tmp_path / "a"


def run(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.stderr


def test_an_adapter_bounds_onsets_by_what_its_songs_show_and_the_base_alone_by_ten(any_backend, adapter, tmp_path):
    options = ["--adapter-dir", adapter, "--compare", "--backend", any_backend, "--max-new-tokens", 120, "--count", 2]
    run("generate", "--output", tmp_path / "x.mid", *options, "--top-p", 1, "--top-k", 0)
    adapted, base = ([n for p in tmp_path.glob(f"x-00?{m}.mid") for n in sizes_of_onsets(p)] for m in ("", "-base"))
    assert max(adapted) == 2
    assert 2 < max(base) <= 10


def test_blended_and_fused_adapters_keep_the_bound(any_backend, adapter, tmp_path):
    run("blend", adapter, f"{adapter}:0.5", tmp_path / "blended")
    run("fuse", "--adapter-dir", adapter, "--output-dir", tmp_path / "fused", "--backend", any_backend)
    run("convert", "model", tmp_path / "fused", tmp_path / "mlx", "--to", "mlx")
    for name in ("blended", "fused", "mlx"):
        assert json.loads((tmp_path / name / "musiclora.json").read_text())["notes_at_once"] == 2
