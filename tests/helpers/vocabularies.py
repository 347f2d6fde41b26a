"""MidiTok vocabularies that the tests of grammars walk over."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from miditok import REMI, TSD, PerTok, Structured, TokenizerConfig
from symusic import Note, Score, Tempo, TimeSignature, Track

PUBLIC = {
    "num_velocities": 8,
    "use_velocities": True,
    "use_chords": False,
    "use_rests": True,
    "use_tempos": True,
    "use_time_signatures": False,
    "use_programs": False,
    "use_pitchdrum_tokens": False,
    "ticks_per_quarter": 320,
    "use_microtiming": False,
    "max_microtiming_shift": 0.125,
}
PLAIN = {"use_velocities": False, "use_tempos": False, "use_time_signatures": False, "use_programs": False}
METRES = {4: [2, 3, 4], 8: [6, 9]}
SIGNED = {"use_time_signatures": True, "time_signature_range": METRES}
ONE_STREAM = {"use_programs": True, "one_token_stream_for_programs": True}
MIXED_BEATS = {"beat_res": {(0, 4): 8, (4, 12): 3}}
TOKENIZERS = {
    "pertok": lambda: PerTok(TokenizerConfig(**PUBLIC)),
    "pertok-microtiming": lambda: PerTok(
        TokenizerConfig(**(PUBLIC | MIXED_BEATS | {"use_microtiming": True, "num_microtiming_bins": 10}))
    ),
    "pertok-positions": lambda: PerTok(TokenizerConfig(**(PUBLIC | {"use_position_toks": True}))),
    "pertok-metres": lambda: PerTok(TokenizerConfig(**(PUBLIC | SIGNED))),
    "pertok-programs": lambda: PerTok(
        TokenizerConfig(**(PUBLIC | ONE_STREAM | {"use_microtiming": True, "num_microtiming_bins": 4}))
    ),
    "remi": lambda: REMI(TokenizerConfig(**PLAIN)),
    "remi-default": lambda: REMI(TokenizerConfig(use_velocities=True)),
    "remi-metres-tempos": lambda: REMI(TokenizerConfig(**(PLAIN | SIGNED | {"use_tempos": True}))),
    "remi-rests": lambda: REMI(TokenizerConfig(**(PLAIN | {"use_rests": True, "use_tempos": True}))),
    "remi-bar-ends": lambda: REMI(TokenizerConfig(**(PLAIN | {"use_bar_end_tokens": True}))),
    "remi-plus": lambda: REMI(TokenizerConfig(**(SIGNED | ONE_STREAM | {"use_tempos": True, "use_rests": True}))),
    "remi-drums": lambda: REMI(TokenizerConfig(**(PLAIN | ONE_STREAM | {"use_pitchdrum_tokens": True}))),
    "tsd": lambda: TSD(TokenizerConfig(**PLAIN)),
    "structured": lambda: Structured(TokenizerConfig(**PLAIN)),
}


def tune(bars: int = 8, seed: int = 0) -> Score:
    """Build a monophonic piece of quavers with some rests, in 4/4."""
    rng = np.random.default_rng(seed)
    score = Score(480)
    track = Track(program=0)
    for beat in range(bars * 8):
        if rng.random() < 0.8:
            track.notes.append(Note(beat * 240, int(rng.choice([240, 480])), int(rng.integers(55, 80)), 80))
    score.tracks.append(track)
    score.tempos.append(Tempo(0, 100.0))
    score.time_signatures.append(TimeSignature(0, 4, 4))
    return score


def trained(name: str):
    """Train a tokenizer of TOKENIZERS to merge tokens, on pieces by `tune`."""
    tokenizer = TOKENIZERS[name]()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{seed}.mid" for seed in range(12)]
        for seed, file in enumerate(files):
            tune(seed=seed).dump_midi(file)
        tokenizer.train(vocab_size=len(tokenizer) + 60, model="BPE", files_paths=files)
    return tokenizer


TRAINED = {f"{name}-bpe": (lambda name=name: trained(name)) for name in ("pertok", "remi", "remi-metres-tempos")}
