"""Runs that were stopped or killed: they go on and end as unbroken ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from session_helpers import adapter, equal, stop_after

from musiclora.jobs import open_session, train
from musiclora.training.run_folder import Run


@pytest.mark.slow
def test_a_run_stopped_and_resumed_equals_an_unbroken_one(config, finished_run):
    train(config("parts", max_steps=3))
    # max_steps sets the schedule's end too, so the first part is cut by hand: as a crash would leave it.
    stop_after(open_session(config("broken")), 3)
    train(config("broken"))
    assert equal(adapter(finished_run.run_dir), adapter(config("broken").output_dir))
    assert not equal(adapter(finished_run.run_dir), adapter(config("parts").output_dir))


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


# One process for several commands, each with its own arguments: a process takes seconds to start.
_TRAIN = """
import json, sys
from musiclora.cli import main
for arguments in json.loads(sys.argv[1]):
    main(arguments, standalone_mode=False)
"""


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
""" + _TRAIN.lstrip()


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

    def start(*names, code=_TRAIN):
        arguments = [["train", *pairs, "--output-dir", str(tmp_path / name)] for name in names]
        command = [sys.executable, "-c", code, json.dumps(arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, env={**os.environ, **threads})

    assert start("killed", code=_KILLED_TRAIN).returncode == -signal.SIGKILL
    killed_at = Run(tmp_path / "killed").read_progress()
    done = start("killed", "whole")
    assert done.returncode == 0, done.stderr
    assert 0 < killed_at.step < Run(tmp_path / "whole").read_progress().step
    assert equal(adapter(tmp_path / "killed"), adapter(tmp_path / "whole"))


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
def test_a_state_that_was_being_replaced_when_the_power_went_is_found_again(config, own_run, tmp_path):
    (tmp_path / "run" / "state").rename(tmp_path / "run" / ".state.1234abcd.old")
    again = train(config())
    assert again.already_finished
    assert again.progress.step == own_run.progress.step
