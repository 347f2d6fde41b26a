"""The training job: exact resume, what it leaves, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from session_helpers import adapter, equal

from musiclora.convert.adapters.peft import read_peft
from musiclora.errors import ConfigError, DataError, TrainingError
from musiclora.jobs import open_session, train


@pytest.mark.slow
def test_a_run_leaves_every_promised_file(finished_run):
    result, run = finished_run, finished_run.run_dir
    names = {"adapter-best", "adapter-last", "training_meta.json", "metrics.jsonl", "loss.png", "config.toml", "state"}
    assert names <= {p.name for p in run.iterdir()}
    meta = json.loads((run / "training_meta.json").read_text())
    promised = (
        "base_model tokenizer max_seq_len epochs batch_size grad_accum_steps lr weight_decay lora_r lora_alpha "
        "lora_dropout val_split best_val_loss"
    )
    assert set(promised.split()) <= set(meta)
    assert meta["best_val_loss"] == pytest.approx(result.after.loss, abs=1e-5)
    assert result.after.loss < result.before.loss
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "lr" in row]
    assert [row["step"] for row in steps] == list(range(1, meta["steps"] + 1))
    assert {"epoch", "loss", "tokens_per_second"} <= set(steps[0])
    record = json.loads((run / "adapter-best" / "musiclora.json").read_text())
    assert record["fingerprints"]
    assert (record["base_kind"], record["base_model"]) == ("local", "")
    assert json.loads((run / "adapter-best" / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    texts = [path.read_text() for path in (run / "adapter-best").iterdir() if path.suffix in (".json", ".md")]
    assert not [text for text in texts if str(run.parent) in text or "tiny" in text]
    card = (run / "adapter-best" / "README.md").read_text()
    assert "license: other\npipeline_tag: text-generation\n" in card
    assert "base_model:" not in card


@pytest.mark.slow
def test_the_update_is_measured_against_the_weights(finished_run, tiny_base):
    from musiclora.convert.models.gpt2 import read_checkpoint

    result = finished_run
    found = read_peft(result.run_dir / "adapter-best")
    module = "transformer.h.1.mlp.c_fc"
    weight = read_checkpoint(tiny_base).load()[f"{module}.weight"]
    a, b = found.state[f"{module}.lora_A.weight"], found.state[f"{module}.lora_B.weight"]
    expected = np.linalg.norm(found.spec.scale * (b @ a)) / np.linalg.norm(weight)
    assert result.update[module] == pytest.approx(expected, rel=1e-4)
    assert expected > 0


@pytest.mark.slow
def test_music_mixed_in_holds_no_relative_of_a_held_out_song(config, tunes):
    session = open_session(config(mix_dir=str(tunes), mix_ratio=0.6))
    held_out = {tuple(p.tokens) for p in session.task.songs.held_out}
    assert held_out
    assert not held_out & {tuple(p.tokens) for p in session.task.songs.train}
    assert any("--mix-dir" in text for text in session.task.songs.notes)


@pytest.mark.slow
def test_a_finished_run_is_left_alone_and_more_epochs_continue_it(config, own_run):
    first = own_run
    again = train(config())
    assert again.already_finished
    assert again.after == first.after
    longer = train(config(epochs=3))
    assert longer.progress.epoch == 3
    assert longer.progress.step > first.progress.step


@pytest.mark.slow
def test_a_run_that_lost_its_patience_goes_on_with_more_epochs(config):
    options = {"lr": 1e-9, "patience": 1, "lora_dropout": 0.0}
    first = train(config(epochs=3, **options))
    assert first.progress.ended == "patience"
    assert train(config(epochs=3, **options)).already_finished
    assert train(config(epochs=9, **options)).progress.step > first.progress.step


@pytest.mark.slow
@pytest.mark.usefixtures("own_run")
def test_another_setting_in_the_same_folder_is_refused_by_name(config):
    with pytest.raises(TrainingError, match=r"--lora-r was 4, is 2.*--restart"):
        train(config(lora_r=2))


@pytest.mark.slow
@pytest.mark.usefixtures("own_run")
def test_a_setting_left_out_the_second_time_is_noticed_too(config):
    with pytest.raises(TrainingError, match=r"--lora-r was 4, is 16 \(the default\)"):
        train(config(lora_r=None))


@pytest.mark.slow
def test_planned_settings_need_not_be_given_again(config):
    options = {"batch_size": None, "grad_accum_steps": None, "epochs": 1}
    first = train(config(**options))
    assert train(config(**options)).progress.step == first.progress.step


@pytest.mark.slow
def test_settings_given_once_hold_for_the_rest_of_the_run(config):
    train(config(epochs=1, batch_size=3, grad_accum_steps=1))
    train(config(epochs=2, batch_size=None, grad_accum_steps=None))
    train(config("whole", epochs=2, batch_size=3, grad_accum_steps=1))
    broken, whole = (
        json.loads((Path(config(n).output_dir) / "training_meta.json").read_text()) for n in ("run", "whole")
    )
    assert broken["batch_size"] == whole["batch_size"] == 3
    assert broken["steps"] == whole["steps"]


def test_one_song_only_is_refused_with_what_to_do(config, tunes, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "a.abc").write_bytes(next(iter(sorted(tunes.glob("*.abc")))).read_bytes())
    with pytest.raises(DataError):
        train(config(data_dir=str(folder)))
    assert not (tmp_path / "run").exists()


def test_a_target_that_matches_nothing_is_refused_and_nothing_is_written(config, tmp_path):
    with pytest.raises(ConfigError, match="q_proj"):
        train(config(target_modules=("q_proj",)))
    assert not (tmp_path / "run").exists()


def test_held_out_songs_are_never_trained_on(config):
    session = open_session(config())
    songs = session.task.songs
    trained = {tuple(p.tokens) for p in songs.train}
    assert songs.held_out
    assert not trained & {tuple(p.tokens) for p in songs.held_out}
    assert {p.group for p in songs.train}.isdisjoint({p.group for p in songs.held_out})


@pytest.mark.slow
def test_samples_are_written_and_do_not_disturb_the_training(config, finished_run, tmp_path):
    train(config("loud", sample_every=1))
    assert sorted(p.name for p in (tmp_path / "loud" / "samples").glob("*.mid")) == [
        "base.mid",
        "epoch-001.mid",
        "epoch-002.mid",
    ]
    assert equal(adapter(finished_run.run_dir), adapter(tmp_path / "loud"))


@pytest.mark.slow
def test_mixed_in_music_is_trained_on_and_never_held_out(config, tunes, tmp_path):
    extra = tmp_path / "extra"
    extra.mkdir()
    for path in sorted(tunes.glob("*.abc"))[4:]:
        (extra / f"x-{path.name}").write_bytes(path.read_bytes())
    own = tmp_path / "own"
    own.mkdir()
    for path in sorted(tunes.glob("*.abc"))[:4]:
        (own / path.name).write_bytes(path.read_bytes())
    plain = open_session(config(data_dir=str(own)))
    mixed = open_session(config(data_dir=str(own), mix_dir=str(extra), mix_ratio=0.4))
    assert [p.name for p in mixed.task.songs.held_out] == [p.name for p in plain.task.songs.held_out]
    added = [p for p in mixed.task.songs.train if p.name.startswith("x-")]
    share = sum(len(p.tokens) for p in added) / sum(len(p.tokens) for p in mixed.task.songs.train)
    assert share == pytest.approx(0.4, abs=0.03)  # within a bar


def test_augmented_copies_of_held_out_songs_are_on_neither_side(config, tunes, tmp_path):
    from musiclora.symbolic.reading.augment import augment_folder

    augment_folder(tunes, tmp_path / "aug", [-2, 2], [], workers=1)
    songs = open_session(config(data_dir=str(tmp_path / "aug"))).task.songs
    assert {p.group for p in songs.train}.isdisjoint({p.group for p in songs.held_out})
    assert all(p.is_original for p in songs.held_out)
    assert len(songs.train) == 3 * 6
