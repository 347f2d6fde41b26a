"""Trainings of the page outlive it, and every page finds them."""

from __future__ import annotations

import json
import os
import time

import pytest

from musiclora.convert.files.folder_lock import lock_holder, take_lock
from musiclora.errors import ConfigError
from musiclora.jobs import train
from musiclora.training.config import TrainConfig
from musiclora.training.run_folder import Run
from musiclora.ui.curves import loss_table
from musiclora.ui.runs import Launcher, RunState
from musiclora.ui.workspace import Workspace


@pytest.fixture
def launcher(tmp_path):
    return Launcher(Workspace(tmp_path))


def wait_for(launcher, folder, *wanted, seconds=120):
    end = time.monotonic() + seconds
    while (state := launcher.read(folder)).status not in wanted:
        assert time.monotonic() < end, state
        time.sleep(0.1)
    return state


@pytest.mark.slow
def test_a_run_of_the_command_line_is_found_and_goes_on_where_more_is_asked(launcher, tmp_path, tiny_base, tunes):
    folder = tmp_path / "runs" / "one"
    settings = {"data_dir": str(tunes), "output_dir": str(folder), "model": str(tiny_base), "backend": "torch"}
    result = train(TrainConfig(**settings, max_steps=2, max_seq_len=64, sample_every=1, val_split=0.0))
    state = launcher.read(folder)
    assert (state.status, state.step, state.headline()) == ("finished", 2, "finished")
    assert list(state.result) == result.lines()[1:]
    assert len(state.rows) == len(Run(folder).read_metrics())
    launcher.resume(folder, ["--max-steps=100000", "--epochs=50000"])
    assert launcher.read(folder).status == "starting"
    with pytest.raises(ConfigError, match="a process is training in this folder"):
        Launcher(launcher.workspace).resume(folder)  # a page that was started again
    end = time.monotonic() + 120
    while (state := launcher.read(folder)).step < 4:
        assert time.monotonic() < end, state
        time.sleep(0.1)
    assert state.status == "training"
    Launcher(launcher.workspace).stop(folder)
    state = wait_for(launcher, folder, "stopped")
    assert Run(folder).read_progress().step == state.step
    assert lock_holder(folder) is None


def test_a_failure_shows_the_last_line(launcher, tmp_path):
    folder = tmp_path / "runs" / "bad"
    launcher.start(folder, ["--data-dir=gone", "--output-dir=runs/bad", "--model=bundled"])
    state = wait_for(launcher, folder, "failed")
    assert state.headline().startswith("failed: --data-dir gone: no such file")
    assert not folder.exists()
    with pytest.raises(ConfigError, match="holds no run to resume"):
        launcher.resume(folder)
    with pytest.raises(ConfigError, match="no process trains here"):
        launcher.stop(folder)


def test_a_run_of_another_machine_is_not_stopped_from_here(launcher, tmp_path):
    folder = tmp_path / "runs" / "far"
    with take_lock(folder):
        assert lock_holder(folder) == os.getpid()
        (folder / ".lock").write_text(json.dumps({"process": os.getpid(), "host": "elsewhere"}))
        assert lock_holder(folder) is None
        assert launcher.read(folder).status == "training"
        with pytest.raises(ConfigError, match="another machine"):
            launcher.stop(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": "x"}', '{"process": -1, "host": "h"}'])
def test_a_lock_of_an_earlier_version_names_nobody(tmp_path, content):
    with take_lock(tmp_path / "run"):
        (tmp_path / "run" / ".lock").write_text(content)
        assert lock_holder(tmp_path / "run") is None


def test_a_damaged_record_of_a_start_is_no_start(launcher, tmp_path):
    log = launcher.workspace.logs / "runs__x.json"
    log.parent.mkdir(parents=True)
    log.write_text("{broken")
    assert launcher.read(tmp_path / "runs" / "x") == RunState("failed")


def test_the_curve_averages_many_steps_and_keeps_every_evaluation():
    rows = [{"step": i, "loss": float(i)} for i in range(1, 1001)]
    rows += [{"step": 0, "val_loss": 5.0}, {"step": 1000, "val_loss": 4.0}]
    table = loss_table(rows)
    training = table[table.curve == "training"]
    assert len(training) == 334
    assert training.iloc[0].to_dict() == {"step": 3, "loss": 2.0, "curve": "training"}
    assert table[table.curve == "held out"].loss.tolist() == [5.0, 4.0]
