"""Pretraining: transpositions, resume, what it leaves."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from musiclora.convert.files.safetensors_file import read_safetensors
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.errors import ConfigError
from musiclora.symbolic import pretrain
from musiclora.symbolic.dataset.pieces import load_pieces
from musiclora.symbolic.dataset.transpose import TransposedEpochs, transpose_piece, versions_within
from musiclora.symbolic.pretrain import PretrainOptions, describe_fresh, pretrain_base
from musiclora.symbolic.tokens.tokenizers import own_tokenizer
from musiclora.training.config import TrainConfig
from musiclora.training.run_folder import Run


@pytest.fixture(scope="module")
def pieces(tunes):
    return load_pieces(tunes, own_tokenizer(), workers=1).pieces


def config(tunes, output, backend, **changes):
    settings = {
        "data_dir": str(tunes),
        "output_dir": str(output),
        "backend": backend,
        "max_seq_len": 128,
        "batch_size": 4,
        "grad_accum_steps": 2,
        "lr": 3e-3,
        "val_split": 0.25,
        "num_workers": 1,
        "epochs": 2,
    }
    return TrainConfig(**{**settings, **changes})


def test_every_epoch_holds_each_piece_once_in_another_transposition(pieces):
    tokenizer = own_tokenizer()
    data = TransposedEpochs([transpose_piece(tokenizer, p, low=40, high=93) for p in pieces], tokenizer, 256, 4, 1)
    pitch_of = tokenizer.pitch_of

    def pitches(epoch):
        tokens = np.concatenate([b["tokens"][b["loss_mask"]] for b in data.batches(epoch)])
        return pitch_of[tokens][pitch_of[tokens] >= 0]

    first, second = pitches(0), pitches(1)
    assert len(first) == len(second) == sum((pitch_of[p.tokens] >= 0).sum() for p in pieces)
    assert sorted(first) != sorted(second)
    assert first.min() >= 40
    assert first.max() <= 93
    assert all(np.array_equal(a["tokens"], b["tokens"]) for a, b in zip(data.batches(1), data.batches(1), strict=True))


def test_keys_stay_within_the_semitones_asked_for(pieces):
    tokenizer = own_tokenizer()
    versions = versions_within(tokenizer, pieces[0], 3)
    own = tokenizer.pitch_of[pieces[0].tokens]
    shifts = [int((tokenizer.pitch_of[v.tokens] - own)[own >= 0].mean()) for v in versions]
    assert shifts == [-3, -2, -1, 0, 1, 2, 3]


@pytest.mark.parametrize("tokenizer", ["band", "own"])
def test_songs_with_programs_stay_within_six_semitones_of_their_key(tunes, tmp_path, monkeypatch, tokenizer):
    seen = []

    def session(config, task, *_rest):
        return SimpleNamespace(train=lambda restart: seen.append(task.training_epochs(config, 1)._keys))

    monkeypatch.setattr(pretrain, "Session", session)
    pretrain_base(config(tunes, tmp_path, "torch", tokenizer=tokenizer), PretrainOptions(preset="tiny"))

    shifts = {shift for versions in seen[0] for shift in versions.shifts}
    assert (min(shifts), max(shifts)) == (-6, 6) if tokenizer == "band" else max(shifts) > 6


@pytest.mark.slow
def test_pretraining_leaves_a_base_that_knows_more_than_it_did(tunes, any_backend, tmp_path):
    options = PretrainOptions(preset="tiny", evaluate_every=3)
    result = pretrain_base(config(tunes, tmp_path / "base", any_backend), options)
    folder = tmp_path / "base" / "model-best"
    assert json.loads((folder / "musiclora.json").read_text())["notes_at_once"] >= 1
    found = read_checkpoint(folder).config
    assert (found.n_embd, found.n_layer, found.vocab_size) == (64, 2, own_tokenizer().vocab_size)
    assert json.loads((folder / "tokenizer.json").read_text())["tokenization"] == "REMI"
    assert result.after.loss < result.before.loss - 0.5


@pytest.mark.slow
def test_pretraining_resumed_equals_unbroken(tunes, any_backend, tmp_path, monkeypatch):
    from musiclora.training.loop import Loop

    options = PretrainOptions(preset="tiny")
    pretrain_base(config(tunes, tmp_path / "whole", any_backend), options)
    step = Loop._run_step

    def stop_after_two(self, micro_batches):
        step(self, micro_batches)
        if self.progress.step == 2:
            self.save()
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "_run_step", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        pretrain_base(config(tunes, tmp_path / "parts", any_backend), options)
    monkeypatch.setattr(Loop, "_run_step", step)
    assert Run(tmp_path / "parts").read_progress().step == 2
    pretrain_base(config(tunes, tmp_path / "parts", any_backend), options)
    whole, parts = (
        read_safetensors(tmp_path / name / "model-last" / "model.safetensors") for name in ("whole", "parts")
    )
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


@pytest.mark.slow
def test_pretraining_goes_on_from_another_base(tunes, tiny_base, any_backend, tmp_path):
    result = pretrain_base(config(tunes, tmp_path / "on", any_backend, epochs=1), PretrainOptions(model=str(tiny_base)))
    assert read_checkpoint(tmp_path / "on" / "model-best").config.n_embd == 32
    assert result.after.loss < result.before.loss


def test_an_unknown_size_is_refused():
    with pytest.raises(ConfigError, match="tiny, small, medium"):
        PretrainOptions(preset="huge")


@pytest.mark.parametrize(("tokens", "warned"), [(10, True), (10_000_000, False)])
def test_a_fresh_base_is_said_to_know_nothing_and_warned_of_where_there_is_little_music(tiny_base, tokens, warned):
    first, *rest = describe_fresh(tiny_base, tokens)
    assert "random weights, which know no music" in first
    assert [line.split(" are few")[0] for line in rest] == (["warning: 10 tokens"] if warned else [])
