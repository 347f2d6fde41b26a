"""Trainings of the page outlive it, and every page finds them."""

from __future__ import annotations

import json
import os
import time

import pytest

from musiclora.convert.files.folder_lock import lock_holder, take_lock
from musiclora.errors import ConfigError
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
def test_a_training_outlives_its_page_and_is_stopped_and_resumed_by_another(launcher, tmp_path, tiny_base, tunes):
    folder = tmp_path / "runs" / "one"
    words = [f"--data-dir={tunes}", "--output-dir=runs/one", f"--model={tiny_base}", "--backend=torch"]
    launcher.start(folder, [*words, "--max-steps=100000", "--sample-every=1", "--max-seq-len=64"])
    assert launcher.read(folder).status == "starting"
    with pytest.raises(ConfigError, match="a process is training in this folder"):
        launcher.start(folder, words)
    second = Launcher(launcher.workspace)  # a page that was started again
    end = time.monotonic() + 120
    while (state := second.read(folder)).step < 3:
        assert time.monotonic() < end, state
        time.sleep(0.1)
    assert state.status == "training"
    assert state.line
    with pytest.raises(ConfigError, match="training in this folder"):
        second.resume(folder)
    second.stop(folder)
    state = wait_for(second, folder, "stopped")
    assert Run(folder).read_progress().step == state.step
    assert lock_holder(folder) is None

    second.resume(folder, [f"--max-steps={state.step + 1}"])
    done = wait_for(second, folder, "finished", "failed")
    assert (done.status, done.step) == ("finished", state.step + 1)
    assert done.result
    assert done.headline() == "finished"
    assert launcher.read(folder).status == "finished"


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
