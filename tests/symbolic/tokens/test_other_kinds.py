"""Tokenizers with other neighbours of a pitch, and with one stream of tracks: training, evaluation, generation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from miditok import MMM, PerTok, TokenizerConfig
from symusic import Note, PitchBend, Score, Tempo, TimeSignature, Track

from musiclora.cli import main
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
from musiclora.symbolic.tokens.kept import encode_and_count
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer, from_json

MICROTIMING = {
    "use_velocities": True,
    "use_tempos": True,
    "ticks_per_quarter": 320,
    "use_microtiming": True,
    "max_microtiming_shift": 0.125,
    "num_microtiming_bins": 10,
}
PROGRAMS = {"use_programs": True, "one_token_stream_for_programs": True}
KINDS = {
    "pertok-microtiming": lambda: PerTok(TokenizerConfig(**MICROTIMING)),
    "pertok-microtiming-programs": lambda: PerTok(TokenizerConfig(**MICROTIMING, **PROGRAMS)),
    "mmm-remi": lambda: MMM(TokenizerConfig(base_tokenizer="REMI")),
    "mmm-tsd": lambda: MMM(TokenizerConfig(base_tokenizer="TSD")),
    "mmm-midilike": lambda: MMM(TokenizerConfig(base_tokenizer="MIDILike")),
}


def song(seed: int = 0) -> Score:
    """Build 16 quavers of a piano, a bass and drums."""
    rng, score = np.random.default_rng(seed), Score(480)
    for program, low, drums in ((0, 60, False), (33, 36, False), (0, 36, True)):
        track = Track(program=program, is_drum=drums)
        track.notes.extend([Note(240 * i, 240, low + int(rng.integers(12)), 80) for i in range(16)])
        score.tracks.append(track)
    score.tempos.append(Tempo(0, 100.0))
    return score


@pytest.mark.parametrize("kind", KINDS)
def test_notes_are_counted_as_they_decode(kind):
    tokenizer = MusicTokenizer(KINDS[kind]())
    ids = tokenizer.encode(song())
    kept = 32 if kind == "pertok-microtiming" else 48  # one track of piano holds no drums
    assert tokenizer.note_count(ids) == tokenizer.decode(ids).note_num() == kept


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pertok-microtiming", "mmm-remi"])
def test_such_a_base_is_trained_evaluated_and_generated_from(any_backend, kind, tmp_path):
    tokenizer = MusicTokenizer(KINDS[kind]())
    config = Gpt2Config(tokenizer.vocab_size, 96, 16, 1, 2, 32)
    extra = {"tokenizer.json": tokenizer.to_json().encode()}
    write_checkpoint(tmp_path / "base", config, fresh_tensors(config, 3), "hf", extra_files=extra)
    (tmp_path / "songs").mkdir()
    for seed in range(3):
        song(seed).dump_midi(tmp_path / "songs" / f"{seed}.mid")
    shared = ["--model", str(tmp_path / "base"), "--backend", any_backend]
    data = ["--data-dir", str(tmp_path / "songs"), "--json"]
    results = [
        CliRunner().invoke(main, command)
        for command in (
            ["train", *shared, *data, "--output-dir", str(tmp_path / "run"), "--epochs", "1"],
            ["evaluate", *shared, *data],
            ["generate", *shared, "--output", str(tmp_path / "new.mid"), "--max-new-tokens", "90"],
        )
    ]
    assert [result.exit_code for result in results] == [0, 0, 0], [result.stderr for result in results]
    assert 0 < json.loads(results[1].stdout)["bits_per_note"] < 100
    assert Score(tmp_path / "new.mid").note_num() > 0
    record = json.loads((tmp_path / "run" / "adapter-best" / "musiclora.json").read_text())
    assert record["notes_at_once"] == (2 if kind == "pertok-microtiming" else 1)  # MMM: one track after the other


@pytest.mark.parametrize("metre", [(4, 4), (3, 4), (6, 8), (3, 2)])
@pytest.mark.parametrize("event", ["use_tempos", "use_pitch_bends"])
def test_a_pertok_with_time_signatures_decodes_tempos_and_bends(event, metre):
    # Decoding ended in a TypeError inside MidiTok, whose ticks are floats after a time signature.
    options = {"use_time_signatures": True, "ticks_per_quarter": 320, "use_microtiming": False, event: True}
    ranges = {2: [3], 4: [3, 4], 8: [6]}
    config = TokenizerConfig(**options, max_microtiming_shift=0.125, time_signature_range=ranges)
    tokenizer = from_json(json.dumps(PerTok(config).to_dict()))
    given = song()
    given.time_signatures.append(TimeSignature(0, *metre))
    given.tempos.append(Tempo(4 * 480, 140.0))
    for track in given.tracks:
        track.pitch_bends.append(PitchBend(4 * 480, 4096))
    decoded = tokenizer.decode(tokenizer.encode(given))
    assert decoded.note_num() == 32  # one track of piano holds no drums
    assert [(t.numerator, t.denominator) for t in decoded.time_signatures] == [metre]
    if event == "use_tempos":
        assert [t.qpm for t in decoded.tempos] == pytest.approx([100, 140], rel=0.05)


def test_a_metre_without_a_token_is_left_out_of_a_pertok_and_counted():
    # Encoding ended in a KeyError.
    options = {"ticks_per_quarter": 320, "use_microtiming": False, "max_microtiming_shift": 0.125}
    tokenizer = from_json(json.dumps(PerTok(TokenizerConfig(use_time_signatures=True, **options)).to_dict()))
    given = song()
    given.time_signatures.extend([TimeSignature(0, 3, 4), TimeSignature(3 * 480, 7, 8)])
    ids, kept = encode_and_count(tokenizer, given)
    assert [(t.numerator, t.denominator) for t in tokenizer.decode(ids).time_signatures] == [(3, 4)]
    assert kept.metres == 1
