"""Training and evaluation with arrival-time tokens: anticipated rows, accompaniment, losses by instrument."""

from __future__ import annotations

import dataclasses
import html
import json
import shutil

import numpy as np
import pytest
import tolerance
from arrival_recordings import MIDI
from click.testing import CliRunner
from refusal import refused
from require import require
from session_helpers import RememberingReporter, stop_after

from musiclora.backends.base import FAMILIES
from musiclora.backends.registry import get_backend
from musiclora.cli import main
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, read_checkpoint, write_checkpoint
from musiclora.jobs import evaluate, open_session, train
from musiclora.symbolic.dataset.arrival_rows import pad_rests
from musiclora.symbolic.dataset.batches import batch_plan
from musiclora.symbolic.dataset.pieces import load_pieces
from musiclora.symbolic.pretrain import PretrainOptions, pretrain_base
from musiclora.symbolic.tokens.arrival import ANTICIPATE, AUTOREGRESS, CONTROL_OFFSET, ArrivalTokenizer
from musiclora.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("plain_pictures")

SONGS = ("silence", "long_note", "loose_ends", "solo")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Write a tiny GPT-2 with the flag of the arrival-time bases; it knows nothing."""
    shape = Gpt2Config(55_028, 64, 8, 2, 2, 32, scale_attn_by_inverse_layer_idx=True)
    folder = tmp_path_factory.mktemp("arrival") / "tiny"
    extra = {"tokenizer.json": ArrivalTokenizer().to_json().encode()}
    write_checkpoint(folder, shape, fresh_tensors(shape, 3), "hf", extra_files=extra)
    return folder


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    for name in SONGS:
        shutil.copy(MIDI / f"{name}.mid", folder)
    return folder


@pytest.fixture
def config(base, songs, tmp_path):
    def make(backend, name="run", **changes):
        settings = {
            "data_dir": str(songs),
            "output_dir": str(tmp_path / name),
            "model": str(base),
            "backend": backend,
            "batch_size": 8,
            "grad_accum_steps": 1,
            "epochs": 2,
            "lr": 5e-3,
            "lora_r": 2,
            "lora_dropout": 0.1,
            "val_split": 0.25,
            "num_workers": 1,
            "seed": 3,
        }
        return TrainConfig(**{**settings, **changes})

    return make


def adapter(path):
    return read_peft(path / "adapter-last").state


@pytest.mark.slow
def test_a_run_with_controls_stopped_in_an_epoch_ends_as_an_unbroken_one(config, backend_name, tmp_path):
    whole = open_session(config(backend_name, "whole"))
    steps = len(whole.task.training_epochs(whole.config, 8).batches(0))
    whole.train()
    stop_after(open_session(config(backend_name, "broken")), steps + steps // 2)
    train(config(backend_name, "broken"))
    first, second = adapter(tmp_path / "whole"), adapter(tmp_path / "broken")
    assert set(first) == set(second)
    assert all(np.array_equal(first[key], second[key]) for key in first)
    flags = [
        int(t)
        for epoch in range(2)
        for b in whole.task.training_epochs(whole.config, 8).batches(epoch)
        for t in b["tokens"].ravel()
        if t >= AUTOREGRESS
    ]
    assert set(flags) == {AUTOREGRESS, ANTICIPATE}


@pytest.mark.slow
def test_accompaniment_is_measured_at_each_evaluation_and_kept(config, any_backend, tmp_path):
    reporter = RememberingReporter()
    result = train(config(any_backend), reporter)
    assert any("anticipated rows: 90 % (spans 10, random events 40, instruments 40)" in line for line in reporter.said)
    run = tmp_path / "run"
    assert "anticipation = 0.9" in (run / "config.toml").read_text()
    meta = json.loads((run / "training_meta.json").read_text())
    assert meta["anticipation"] == 0.9
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if "val_loss" in row]
    assert evaluations[0]["step"] == 0
    assert len(evaluations) == 3
    assert all("val_accompaniment_loss" in row for row in evaluations)
    best = next(row for row in evaluations if row["step"] == meta["best_step"])
    assert meta["val_accompaniment_loss"] == pytest.approx(best["val_accompaniment_loss"], abs=1e-5)
    assert meta["base_val_accompaniment_loss"] == evaluations[0]["val_accompaniment_loss"]
    assert result.as_json()["val_accompaniment_loss"] == meta["val_accompaniment_loss"]
    said = "held-out accompaniment loss {:.4f} -> {:.4f}".format(
        meta["base_val_accompaniment_loss"], meta["val_accompaniment_loss"]
    )
    assert said in result.lines()
    assert html.escape(said.replace("held-out", "Held-out")) in (run / "report.html").read_text()
    again = train(config(any_backend))
    assert again.already_finished
    assert again.as_json()["base_val_accompaniment_loss"] == meta["base_val_accompaniment_loss"]


def test_accompaniment_is_of_songs_with_several_instruments_in_as_many_rows_at_most(config, any_backend):
    session = open_session(config(any_backend, val_split=0.8))
    task, settings = session.task, session.config
    bands = [piece for piece in task.songs.held_out if piece.name != "solo.mid"]
    assert bands
    (batches,) = task.further_batches(settings, 4).values()
    assert sum(len(b["tokens"]) for b in batches) <= sum(len(b["tokens"]) for b in task.held_out_batches(settings, 4))
    given = sum(int((b["tokens"] >= CONTROL_OFFSET).sum()) for b in batches)
    assert given
    solo = [piece for piece in [*task.songs.held_out, *task.songs.train] if piece.name == "solo.mid"]
    alone = dataclasses.replace(task, songs=dataclasses.replace(task.songs, held_out=solo))
    assert alone.further_batches(settings, 4) == {}
    assert alone.held_out_batches(settings, 4)


def test_no_anticipation_leaves_all_rows_plain(config, any_backend):
    session = open_session(config(any_backend, anticipation=0.0))
    batches = session.task.training_epochs(session.config, 8).batches(0)
    assert max(int(b["tokens"].max()) for b in batches) == AUTOREGRESS
    (line,) = session.task.describe_plan(session.config)
    assert line.startswith("anticipated rows: none")


def test_controls_and_transposition_go_together(config, any_backend):
    session = open_session(config(any_backend, transpose=5))
    epochs = session.task.training_epochs(session.config, 8)
    tokens = np.concatenate([b["tokens"].ravel() for epoch in range(4) for b in epochs.batches(epoch)])
    assert {AUTOREGRESS, ANTICIPATE} <= set(tokens.tolist())
    plain = open_session(config(any_backend, "plain")).task.training_epochs(session.config, 8)
    assert len(epochs.batches(0)) == len(plain.batches(0))


def test_another_base_refuses_it_in_one_line(tiny_base, tunes, tmp_path, any_backend):
    arguments = ["train", "--data-dir", str(tunes), "--output-dir", str(tmp_path / "run"), "--model", str(tiny_base)]
    result = CliRunner().invoke(main, [*arguments, "--anticipation", "0.5", "--backend", any_backend])
    refused(result, "--anticipation is for bases with arrival-time tokens", "REMI tokens")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_its_range_is_refused(tmp_path, share):
    arguments = ["train", "--data-dir", str(tmp_path), "--output-dir", str(tmp_path / "run")]
    refused(CliRunner().invoke(main, [*arguments, "--anticipation", str(share)]), "--anticipation is", "[0, 1]")


# -- scores -----


@pytest.mark.slow
def test_the_loss_of_a_row_is_that_of_transformers(base, songs, backend_name):
    torch, transformers = require("torch"), require("transformers")
    piece = next(p for p in load_pieces(songs, ArrivalTokenizer(), workers=1).pieces if p.name == "silence.mid")
    plan = batch_plan([piece], ArrivalTokenizer(), 64, 1, 0)
    batch = max(plan.batches(0), key=lambda b: int(b["loss_mask"].sum()))
    used = batch["segments"][0] == 0  # one segment: transformers has one sequence a row
    batch = {name: array[:, used] for name, array in batch.items()}
    model = get_backend(backend_name).load(FAMILIES["symbolic"], base)
    found = model.loss(batch)
    labels = torch.tensor(np.where(batch["loss_mask"], batch["tokens"], -100).astype(np.int64))
    original = transformers.GPT2LMHeadModel.from_pretrained(base).eval()
    with torch.no_grad():
        out = original(torch.tensor(batch["tokens"].astype(np.int64)), labels=labels)
    assert found.weight == int(batch["loss_mask"].sum())
    assert found.mean == pytest.approx(float(out.loss), abs=2 * tolerance.logits(out.logits.numpy()))


@pytest.mark.slow
def test_losses_by_instrument_add_up_to_the_songs(base, songs, any_backend):
    result = evaluate(songs, str(base), (), any_backend, workers=1)
    content = result.as_json()
    found = content["loss_by_instrument"]
    assert {"Vibraphone", "Drums", "timing"} < set(found)
    notes = sum(entry["notes"] for entry in found.values())
    assert notes == content["notes"]
    assert sum(entry["tokens"] for entry in found.values()) == content["tokens"]
    nats = sum(entry["loss"] * entry["tokens"] for entry in found.values())
    assert nats / content["tokens"] == pytest.approx(content["loss"], rel=1e-9)
    bits = sum(e["bits_per_note"] * (notes if name == "timing" else e["notes"]) for name, e in found.items())
    assert bits / notes == pytest.approx(content["bits_per_note"], rel=1e-9)
    assert found["timing"]["notes"] == 0
    pieces = load_pieces(songs, ArrivalTokenizer(), workers=1).pieces
    assert content["tokens"] == sum(len(pad_rests(piece.tokens)) for piece in pieces)  # RESTs count
    assert content["notes"] == sum(len(piece.tokens) // 3 for piece in pieces)
    table = [line.split() for line in result.lines() if line.startswith(("Drums", "timing"))]
    assert [len(line) for line in table] == [4, 3]


@pytest.mark.slow
def test_an_adapter_is_compared_with_its_base_by_instrument(config, songs, any_backend, tmp_path):
    train(config(any_backend, max_steps=2))
    adapter_dir = str(tmp_path / "run" / "adapter-last")
    content = evaluate(songs, None, (adapter_dir,), any_backend, workers=1, allow_base_mismatch=True).as_json()
    adapted, before = content["loss_by_instrument"], content["base"]["loss_by_instrument"]
    assert set(adapted) == set(before)
    assert all(adapted[name]["tokens"] == before[name]["tokens"] for name in adapted)
    assert any(adapted[name]["loss"] != before[name]["loss"] for name in adapted)


@pytest.mark.slow
def test_a_fresh_arrival_base_has_the_flag(songs, any_backend, tmp_path):
    settings = TrainConfig(
        data_dir=str(songs),
        output_dir=str(tmp_path / "base"),
        backend=any_backend,
        tokenizer="arrival",
        max_seq_len=64,
        batch_size=4,
        grad_accum_steps=1,
        max_steps=1,
        val_split=0.25,
        num_workers=1,
    )
    pretrain_base(settings, PretrainOptions(preset="tiny"))
    folder = tmp_path / "base" / "model-best"
    found = read_checkpoint(folder).config
    assert found.scale_attn_by_inverse_layer_idx
    assert found.vocab_size == 55_028
    assert json.loads((folder / "tokenizer.json").read_text())["tokenization"] == "ArrivalTime"
    assert "notes_at_once" not in json.loads((folder / "musiclora.json").read_text())
