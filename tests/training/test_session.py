"""The training job: exact resume, what it leaves, what it refuses."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from session_helpers import stop_after

from musiclora.convert.adapters.peft import read_peft
from musiclora.errors import ConfigError, DataError, TrainingError
from musiclora.jobs import open_session, train
from musiclora.training.config import TrainConfig
from musiclora.training.run_folder import Run


@pytest.fixture
def config(tiny_base, tunes, any_backend, tmp_path):
    def make(name="run", **changes):
        settings = {
            "data_dir": str(tunes),
            "output_dir": str(tmp_path / name),
            "model": str(tiny_base),
            "backend": any_backend,
            "max_seq_len": 128,
            "batch_size": 4,
            "grad_accum_steps": 2,
            "epochs": 2,
            "lr": 5e-3,
            "lora_r": 4,
            "lora_dropout": 0.1,
            "val_split": 0.25,
            "num_workers": 1,
            "seed": 5,
        }
        return TrainConfig(**{**settings, **changes})

    return make


def adapter(path):
    return read_peft(Path(path) / "adapter-last").state


def equal(first, second):
    return set(first) == set(second) and all(np.array_equal(first[k], second[k]) for k in first)


@pytest.mark.slow
def test_a_run_leaves_every_promised_file(config, tmp_path):
    result = train(config())
    run = tmp_path / "run"
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
    assert not [text for text in texts if str(tmp_path) in text or "tiny" in text]
    card = (run / "adapter-best" / "README.md").read_text()
    assert "license: other\npipeline_tag: text-generation\n" in card
    assert "base_model:" not in card


@pytest.mark.slow
def test_the_update_is_measured_against_the_weights(config, tiny_base):
    from musiclora.convert.models.gpt2 import read_checkpoint

    result = train(config())
    found = read_peft(result.run_dir / "adapter-best")
    module = "transformer.h.1.mlp.c_fc"
    weight = read_checkpoint(tiny_base).load()[f"{module}.weight"]
    a, b = found.state[f"{module}.lora_A.weight"], found.state[f"{module}.lora_B.weight"]
    expected = np.linalg.norm(found.spec.scale * (b @ a)) / np.linalg.norm(weight)
    assert result.update[module] == pytest.approx(expected, rel=1e-4)
    assert expected > 0


@pytest.mark.slow
def test_a_run_stopped_and_resumed_equals_an_unbroken_one(config):
    train(config("whole"))
    train(config("parts", max_steps=3))
    # max_steps sets the schedule's end too, so the first part is cut by hand: as a crash would leave it.
    whole = open_session(config("broken"))
    stop_after(whole, 3)
    train(config("broken"))
    assert equal(adapter(config("whole").output_dir), adapter(config("broken").output_dir))
    assert not equal(adapter(config("whole").output_dir), adapter(config("parts").output_dir))


def test_ctrl_c_finishes_the_step_and_saves(config):
    session = open_session(config())
    stop_after(session, 3)
    progress = Run(session.run.path).read_progress()
    assert (progress.step, progress.ended) == (3, "")
    assert (session.run.path / "adapter-last").is_dir()


@pytest.mark.slow
def test_a_run_stopped_at_its_last_step_is_evaluated_by_the_next_start(config):
    stop_after(open_session(config(max_steps=3)), 3)
    result = train(config(max_steps=3))
    assert (result.progress.step, result.progress.ended, result.already_finished) == (3, "steps", False)
    assert result.progress.best is not None
    assert result.after is not None
    assert train(config(max_steps=3)).already_finished


_TRAIN = "from musiclora.cli import main; main()"
# Dies as soon as its second state is on disk.
_KILLED_TRAIN = """
import os, signal
from musiclora.training.run_folder import Run
write, written = Run.write_state, []
def write_and_die(self, *args, **settings):
    write(self, *args, **settings)
    written.append(self)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Run.write_state = write_and_die
from musiclora.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_run_killed_without_warning_goes_on_and_ends_as_an_unbroken_one(
    config, tmp_path, tunes, tiny_base, any_backend
):
    options = {
        "--data-dir": tunes,
        "--model": tiny_base,
        "--backend": any_backend,
        "--max-seq-len": 128,
        "--batch-size": 4,
        "--grad-accum-steps": 2,
        "--epochs": 6,
        "--lr": 5e-3,
        "--lora-r": 4,
        "--lora-dropout": 0.1,
        "--val-split": 0.25,
        "--num-workers": 1,
        "--seed": 5,
    }
    pairs = [str(part) for pair in options.items() for part in pair]

    # Processes of their own: one that holds both frameworks may multiply with another BLAS. All compute with one
    # thread: bits are promised for one machine with equal settings.
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}

    def start(name, code=_TRAIN):
        command = [sys.executable, "-c", code, "train", *pairs, "--output-dir", str(tmp_path / name)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, env={**os.environ, **threads})

    assert start("killed", _KILLED_TRAIN).returncode == -signal.SIGKILL
    killed_at = Run(tmp_path / "killed").read_progress()
    for name in ("killed", "whole"):
        done = start(name)
        assert done.returncode == 0, done.stderr
    assert 0 < killed_at.step < Run(tmp_path / "whole").read_progress().step
    assert equal(adapter(tmp_path / "killed"), adapter(tmp_path / "whole"))


@pytest.mark.slow
def test_music_mixed_in_holds_no_relative_of_a_held_out_song(config, tunes):
    session = open_session(config(mix_dir=str(tunes), mix_ratio=0.6))
    held_out = {tuple(p.tokens) for p in session.task.songs.held_out}
    assert held_out
    assert not held_out & {tuple(p.tokens) for p in session.task.songs.train}
    assert any("--mix-dir" in text for text in session.task.songs.notes)


@pytest.mark.slow
def test_a_finished_run_is_left_alone_and_more_epochs_continue_it(config):
    first = train(config())
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
def test_another_setting_in_the_same_folder_is_refused_by_name(config):
    train(config(epochs=1))
    with pytest.raises(TrainingError, match=r"--lora-r was 4, is 2.*--restart"):
        train(config(epochs=1, lora_r=2))


@pytest.mark.slow
def test_a_setting_left_out_the_second_time_is_noticed_too(config):
    train(config(epochs=1, lora_r=2))
    with pytest.raises(TrainingError, match=r"--lora-r was 2, is 16 \(the default\)"):
        train(config(epochs=1, lora_r=None))


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


@pytest.mark.slow
def test_restart_keeps_the_old_run_as_a_backup(config, tmp_path):
    train(config(epochs=1))
    old = adapter(tmp_path / "run")
    train(config(epochs=1, lora_r=2), restart=True)
    (backup,) = tmp_path.glob("run.backup-*")
    assert equal(adapter(backup), old)
    assert read_peft(tmp_path / "run" / "adapter-last").spec.rank == 2


def test_two_processes_cannot_train_in_one_folder(config, tmp_path):
    with Run(tmp_path / "run").locked(), pytest.raises(TrainingError, match="another process"):
        train(config())


def test_the_lock_is_held_from_before_the_songs_are_read_until_the_end(config, tmp_path, monkeypatch):
    held = []

    def look():
        try:
            with Run(tmp_path / "run").locked():
                held.append(False)
        except TrainingError:
            held.append(True)

    for place in ("musiclora.symbolic.dataset.songs.load_pieces", "musiclora.training.session.make_plan"):
        module, name = place.rsplit(".", 1)
        work = getattr(importlib.import_module(module), name)
        monkeypatch.setattr(place, lambda *a, _work=work, **k: (look(), _work(*a, **k))[1])

    def fail(training, batches):
        raise ConfigError("stopped before the first step")

    monkeypatch.setattr("musiclora.training.session.probe_seconds", fail)
    with pytest.raises(ConfigError):
        train(config())
    assert held == [True, True]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_slower_second_start_does_not_overwrite_the_run_that_finished_meanwhile(config, tmp_path, monkeypatch):
    slow = open_session(config(epochs=1))
    begin, tried = slow._load_model, []

    def meanwhile():  # the quick start comes while the slow one loads its model
        with pytest.raises(TrainingError, match="another process"):
            train(config(epochs=1))
        tried.append(True)
        begin()

    monkeypatch.setattr(slow, "_load_model", meanwhile)
    assert not slow.train().already_finished
    assert tried
    later = open_session(config(epochs=1))  # and one that was opened before another finished finds it finished
    assert later.train().already_finished


def test_a_lock_file_that_its_holder_removes_is_not_shared(tmp_path):
    with Run(tmp_path / "run").locked():
        stale = (tmp_path / "run" / ".lock").open()
    with stale, Run(tmp_path / "run").locked():
        assert not os.path.samestat(os.fstat(stale.fileno()), (tmp_path / "run" / ".lock").stat())
        with pytest.raises(TrainingError, match="another process"), Run(tmp_path / "run").locked():
            pytest.fail("entered")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("restart", [False, True], ids=["", "--restart"])
def test_a_failure_leaves_other_peoples_files_alone(config, tmp_path, restart):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("mine")
    with pytest.raises(TrainingError, match="is not empty"):
        train(config(), restart=restart)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.toml"]


@pytest.mark.slow
def test_a_run_killed_before_its_first_save_begins_anew(config, tmp_path):
    killed = Run(tmp_path / "run")
    killed.path.mkdir()
    for name in (".lock", "config.toml"):
        (killed.path / name).touch()
    killed.append_metrics(step=0, val_loss=9.0)
    for name in (".state.abc.tmp", "adapter-best"):
        (killed.path / name).mkdir()
    result = train(config(epochs=1))
    assert result.progress.ended == "epochs"
    assert killed.read_metrics()[0]["step"] == 0
    assert 9.0 not in [row.get("val_loss") for row in killed.read_metrics()]
    assert not list(killed.path.glob(".state*"))


@pytest.mark.slow
def test_a_state_that_was_being_replaced_when_the_power_went_is_found_again(config, tmp_path):
    first = train(config())
    (tmp_path / "run" / "state").rename(tmp_path / "run" / ".state.1234abcd.old")
    again = train(config())
    assert again.already_finished
    assert again.progress.step == first.progress.step


def test_a_folder_with_other_files_is_not_touched(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(TrainingError, match="is not empty"):
        train(config())
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


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
def test_samples_are_written_and_do_not_disturb_the_training(config, tmp_path):
    train(config("quiet"))
    train(config("loud", sample_every=1))
    assert sorted(p.name for p in (tmp_path / "loud" / "samples").glob("*.mid")) == [
        "base.mid",
        "epoch-001.mid",
        "epoch-002.mid",
    ]
    assert equal(adapter(tmp_path / "quiet"), adapter(tmp_path / "loud"))


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
