"""Folders of runs: one run each, by a lock, and nobody else's files."""

from __future__ import annotations

import importlib
import os

import pytest
from session_helpers import adapter, equal

from musiclora.convert.adapters.peft import read_peft
from musiclora.errors import ConfigError, TrainingError
from musiclora.jobs import open_session, train
from musiclora.training.run_folder import Run


@pytest.mark.slow
@pytest.mark.usefixtures("own_run")
def test_restart_keeps_the_old_run_as_a_backup(config, tmp_path):
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


def test_a_folder_with_other_files_is_not_touched(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(TrainingError, match="is not empty"):
        train(config())
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]
