"""Limits of a run: a time budget, fewer steps on a slow machine, patience and evaluation interval."""

from __future__ import annotations

import dataclasses

import pytest

from musiclora.progress import Reporter
from musiclora.symbolic.task import load_symbolic_task
from musiclora.training.config import TrainConfig
from musiclora.training.limits import ENDLESS_EPOCHS, SessionOptions, choose_patience, fit_plan, make_loop_options
from musiclora.training.plan import TrainingPlan
from musiclora.training.session import Session
from musiclora.training.task import PlanDefaults

PLAN = TrainingPlan(4, 1, 20, 3, 60, 6, 5000, seconds=60.0)
CONFIG = TrainConfig("data", "run", lr=1e-3)


def loop_options(options, plan=PLAN, **changes):
    return make_loop_options(dataclasses.replace(CONFIG, **changes), options, plan, PlanDefaults())


def test_a_slow_machine_gets_fewer_steps_and_is_told(tmp_path, any_backend, tunes, tiny_base):
    config = TrainConfig(
        data_dir=str(tunes),
        output_dir=str(tmp_path / "r"),
        model=str(tiny_base),
        backend=any_backend,
        num_workers=1,
        max_steps=60,
        val_split=0.25,
    )
    task = load_symbolic_task(config, Reporter(), any_backend)
    session = Session(config, task, Reporter(), SessionOptions(longest_seconds=10.0))
    short = session.fit_plan(PLAN)
    assert (short.steps, short.epochs, session.config.max_steps) == (10, 4, 10)
    assert "10 steps instead of 60" in short.warnings[-1]
    assert session.fit_plan(short) == short


def test_a_plan_that_fits_is_left_alone():
    assert fit_plan(PLAN, SessionOptions(longest_seconds=61.0)) == PLAN
    assert fit_plan(PLAN, SessionOptions()) == PLAN
    unmeasured = dataclasses.replace(PLAN, seconds=None)
    assert fit_plan(unmeasured, SessionOptions(budget_seconds=5.0)) == unmeasured


@pytest.mark.parametrize(("seconds", "steps"), [(30.0, 30), (600.0, 600), (0.1, 1)], ids=["less", "more", "tiny"])
def test_a_budget_sets_the_steps_and_the_clock_ends_the_run(seconds, steps):
    options = SessionOptions(budget_seconds=seconds)
    plan = fit_plan(PLAN, options)
    assert (plan.steps, plan.epochs, plan.seconds) == (steps, -(-steps // 3), seconds)
    loop = loop_options(options, plan)
    assert (loop.max_seconds, loop.epochs, loop.total) == (seconds, ENDLESS_EPOCHS, steps)


def test_evaluations_are_spread_over_the_run_or_within_long_epochs():
    assert loop_options(SessionOptions()).evaluate_epochs == 1
    assert loop_options(SessionOptions(evaluations=8)).evaluate_epochs == 2
    assert loop_options(SessionOptions(evaluate_steps=2)).evaluate_every == 2
    assert loop_options(SessionOptions(evaluate_steps=3)).evaluate_every == 0  # an epoch has three steps


def test_patience_comes_from_the_option_then_the_session_then_the_family():
    assert choose_patience(CONFIG, SessionOptions()) == CONFIG.training_defaults.patience
    assert choose_patience(CONFIG, SessionOptions(patience=0)) == 0
    assert choose_patience(dataclasses.replace(CONFIG, patience=3), SessionOptions(patience=0)) == 3
