"""The training loop: when it ends, what it saves, and what a later start makes of it."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest

from musiclora.backends.base import LossSum, StepResult
from musiclora.children.interrupts import Terminated
from musiclora.errors import TrainingError
from musiclora.training.loop import Hooks, Loop, LoopOptions, group_batches
from musiclora.training.run_folder import Run, RunProgress


class Fake:
    """A model and training whose losses are given, for the loop alone."""

    def __init__(self, held_out, step_loss=1.0):
        self.held_out, self.step_loss, self.lrs, self.sizes = list(held_out), step_loss, [], []

    def loss(self, batch):
        return LossSum(self.held_out.pop(0) * 2, 2)

    def step(self, micro_batches, lr):
        self.lrs.append(lr)
        self.sizes.append(len(micro_batches))
        return StepResult(self.step_loss * 4, 4, 0.5)

    def read_state(self):
        return {"step": np.array([len(self.lrs)])}


class Data:
    def batches(self, epoch):
        return [{"n": np.array([i])} for i in range(5)]


def loop(fake, tmp_path, **changes):
    options = {"epochs": 9, "accumulate": 2, "lr": 0.1, "schedule": "constant", "warmup": 0, "total": 27}
    saved = []
    hooks = Hooks(save_best=lambda: saved.append("best"), save_last=lambda: saved.append("last"))
    built = Loop(fake, fake, Data(), [{}], LoopOptions(**{**options, **changes}), Run(tmp_path), RunProgress(), hooks)
    return built, saved


def test_patience_stops_the_run_and_the_best_is_what_was_kept(tmp_path):
    fake = Fake([3.0, 2.0, 2.5, 2.1, 1.0])
    built, saved = loop(fake, tmp_path, patience=2)
    progress = built.go()
    assert (progress.ended, progress.best, progress.best_step, progress.epoch) == ("patience", 2.0, 6, 4)
    assert saved.count("best") == 2


def test_the_last_step_of_an_epoch_takes_what_is_left(tmp_path):
    fake = Fake([1.0])
    loop(fake, tmp_path, epochs=1)[0].go()
    assert fake.sizes == [2, 2, 1]
    assert [len(g) for g in group_batches(list(range(6)), 4)] == [4, 2]


@pytest.mark.parametrize("done", [0, 2], ids=["first step", "later step"])
def test_a_loss_that_is_not_finite_ends_the_run_with_one_line(tmp_path, done):
    fake = Fake([1.0])
    built, saved = loop(fake, tmp_path)
    for _ in range(done):
        built._run_step([{}])
    fake.step_loss = float("nan")
    with pytest.raises(TrainingError, match=f"not finite at step {done + 1}"):
        built.go()
    assert Run(tmp_path).exists == bool(done)
    assert saved == (["last"] if done else [])


def test_the_time_budget_ends_the_run_and_drives_the_schedule(tmp_path):
    fake = Fake([1.0] * 99)
    built, _ = loop(fake, tmp_path, schedule="linear", max_seconds=10.0, epochs=99)
    built.progress.seconds = 5.0
    built._run_step([{}])
    assert fake.lrs[-1] == pytest.approx(0.05, rel=0.01)
    built.progress.seconds = 11.0
    assert built.go().ended == "time"


class Crashed(Exception):
    """Stands for a power cut."""


def crash_after(run, rows):
    """Let a run's process end right after it has written so many lines of metrics."""
    write, left = run.append_metrics, [rows]

    def append(**row):
        write(**row)
        left[0] -= 1
        if not left[0]:
            raise Crashed

    run.append_metrics = append


def new_folder(path):
    path.mkdir()
    return path


def rows_of(folder):
    return [(row["step"], "val_loss" in row) for row in Run(folder).read_metrics()]


@pytest.mark.parametrize("save_seconds", [0.0, 1e9], ids=["saved after every step", "saved after evaluations"])
def test_wherever_a_run_breaks_off_its_metrics_end_with_each_line_once(tmp_path, save_seconds):
    settings = {"epochs": 2, "evaluate_every": 2, "save_seconds": save_seconds}
    loop(Fake([1.0] * 99), new_folder(tmp_path / "whole"), **settings)[0].go()
    whole = rows_of(tmp_path / "whole")
    assert whole == [
        (s, held_out) for s in range(1, 7) for held_out in ((False, True) if s != 1 and s != 5 else (False,))
    ]
    for rows in range(1, len(whole) + 1):
        folder = new_folder(tmp_path / f"after-{rows}")
        broken = loop(Fake([1.0] * 99), folder, **settings)[0]
        crash_after(broken.run, rows)
        with pytest.raises(Crashed):
            broken.go()
        resumed = loop(Fake([1.0] * 99), folder, **settings)[0]
        resumed.progress = resumed.run.read_progress() if resumed.run.exists else RunProgress()
        resumed.run.trim_metrics(resumed.progress)
        resumed.go()
        assert rows_of(folder) == whole, rows


def test_a_run_stopped_before_an_evaluation_inside_an_epoch_makes_up_for_it(tmp_path):
    stopped, _ = loop(Fake([1.0] * 99), tmp_path, epochs=1, evaluate_every=2)
    stopped.hooks.on_step = lambda note: os.kill(os.getpid(), signal.SIGINT) if note.progress.step == 2 else None
    with pytest.raises(KeyboardInterrupt):
        stopped.go()
    resumed = loop(Fake([1.0] * 99), tmp_path, epochs=1, evaluate_every=2)[0]
    resumed.progress = resumed.run.read_progress()
    resumed.go()
    assert rows_of(tmp_path) == [(1, False), (2, False), (2, True), (3, False), (3, True)]


@pytest.mark.parametrize(
    ("state", "evaluated"), [({"index": 0, "epoch": 1}, 3), ({"index": 2}, 0)], ids=["between", "within"]
)
def test_a_state_of_an_earlier_version_knows_its_evaluation_between_two_epochs_only(tmp_path, state, evaluated):
    run = Run(tmp_path)
    run.write_state(RunProgress(step=3, **state), {})
    path = tmp_path / "state" / "progress.json"
    content = json.loads(path.read_text())
    del content["evaluated"]
    path.write_text(json.dumps(content))
    assert run.read_progress().evaluated == evaluated


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_termination_signal_finishes_the_step_and_saves_the_run(tmp_path, name):
    built, _ = loop(Fake([1.0]), tmp_path)
    twice = (getattr(signal, name),) * 2  # as a terminal that closes sends it
    built.hooks.on_step = lambda note: [os.kill(os.getpid(), number) for number in twice]
    with pytest.raises(Terminated, match=name):
        built.go()
    assert Run(tmp_path).read_progress().step == 1


def test_a_run_stopped_at_its_last_step_is_evaluated_and_ended_by_the_next_start(tmp_path):
    # The next start trained one step too many, or none and left the last evaluation out.
    stopped, _ = loop(Fake([1.0] * 99), tmp_path, max_steps=2)
    stopped.hooks.on_step = lambda note: os.kill(os.getpid(), signal.SIGINT) if note.progress.step == 2 else None
    with pytest.raises(KeyboardInterrupt):
        stopped.go()
    resumed, saved = loop(Fake([1.0] * 99), tmp_path, max_steps=2)
    resumed.progress = resumed.run.read_progress()
    progress = resumed.go()
    assert (progress.ended, progress.step, progress.best, saved[0]) == ("steps", 2, 1.0, "best")
    assert rows_of(tmp_path) == [(1, False), (2, False), (2, True)]


def test_a_run_that_is_killed_in_its_last_evaluation_has_not_ended_on_disk(tmp_path):
    killed, _ = loop(Fake([1.0] * 99), tmp_path, max_steps=2, save_seconds=0.0)
    crash_after(killed.run, 3)
    with pytest.raises(Crashed):
        killed.go()
    assert not Run(tmp_path).read_progress().ended
