"""Plans, schedules and scores."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from musiclora.backends.base import LossSum
from musiclora.errors import ConfigError
from musiclora.evaluation.scores import token_gain, token_score
from musiclora.training.config import resolve_config
from musiclora.training.plan import batch_shape, make_plan, probe_seconds
from musiclora.training.schedule import SCHEDULES, learning_rate

FOLDERS = {"data_dir": "d", "output_dir": "o"}


def config(**options):
    return resolve_config({**FOLDERS, **options})


def test_fifteen_songs_get_enough_steps_and_a_short_warm_up():
    # The twin took 8 steps with 100 steps of warm-up here and never reached its learning rate.
    plan = make_plan(config(), 4, 1, batches=16, units_per_epoch=60_000)
    assert plan.steps >= 100
    assert 0 < plan.warmup <= plan.steps / 10
    assert not plan.warnings


def test_few_steps_and_a_long_warm_up_are_warned_of():
    plan = make_plan(config(epochs=2, warmup_steps=9), 16, 1, batches=5, units_per_epoch=60_000)
    assert (plan.steps, plan.warmup) == (10, 9)
    assert ["only 10 optimiser steps" in w or "more than a tenth" in w for w in plan.warnings] == [True, True]
    assert "only 1 optimiser step:" in make_plan(config(max_steps=1), 16, 1, 5, 60_000).warnings[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (4, 2)),
        ({"batch_size": 1}, (1, 8)),
        ({"grad_accum_steps": 4}, (2, 4)),
        ({"batch_size": 3, "grad_accum_steps": 5}, (3, 5)),
    ],
    ids=["planned", "rows given", "passes given", "both given"],
)
def test_a_step_holds_about_an_eighth_of_an_epoch(options, expected):
    assert batch_shape(config(**options), units_per_epoch=70_000, row_length=1024) == expected


def test_max_steps_ends_the_schedule():
    plan = make_plan(config(max_steps=25), 4, 1, batches=10, units_per_epoch=10_000)
    assert (plan.steps, plan.epochs) == (25, 3)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_rate_rises_to_its_peak_and_never_exceeds_it(kind):
    rates = [learning_rate(kind, 1.0, step, 100, 10) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_cosine_and_linear_end_near_zero_and_meet_their_formulas():
    assert learning_rate("cosine", 2.0, 55, 100, 10) == pytest.approx(1 + math.cos(math.pi / 2))
    assert learning_rate("linear", 2.0, 55, 100, 10) == pytest.approx(1.0)
    assert learning_rate("linear", 2.0, 400, 100, 10) == 0
    with pytest.raises(ConfigError, match="cosine, linear, constant"):
        learning_rate("step", 1.0, 0, 1, 0)


def test_the_probe_puts_the_optimiser_back():
    class Training:
        count = 3

        def step(self, micro_batches, lr):
            assert lr == 0.0
            self.count += 1

        def read_state(self):
            return {"step": np.array([self.count])}

        def write_state(self, state):
            self.count = int(state["step"][0])

    training = Training()
    assert probe_seconds(training, [{}]) >= 0
    assert training.count == 3


def test_bits_a_note_count_all_tokens_of_a_note():
    result = token_score(LossSum(total=math.log(2) * 60, weight=30), notes=10)
    assert (result.bits_per_note, result.loss) == pytest.approx((6.0, 2 * math.log(2)))
    assert (result.tokens, result.notes) == (30, 10)
    assert result.perplexity == pytest.approx(4.0)


def test_the_gain_is_the_difference_of_the_scores_and_says_when_it_may_be_chance():
    notes = [10, 30, 20, 40, 25, 35]
    before = [LossSum(n * 7 * math.log(2), n * 3) for n in notes]
    better = [LossSum(n * 6 * math.log(2), n * 3) for n in notes]
    mixed = [LossSum(n * (7 + d) * math.log(2), n * 3) for n, d in zip(notes, (1, -1, 1.2, -0.9, 1, -1), strict=True)]
    clear = token_gain(before, better, notes)
    assert (clear.mean, clear.low, clear.high) == pytest.approx((1.0, 1.0, 1.0))
    assert clear.verdict == "gained"
    assert token_gain(better, before, notes).verdict == "lost"
    unclear = token_gain(before, mixed, notes)
    assert unclear.low is not None
    assert unclear.high is not None
    assert unclear.low < unclear.mean < unclear.high
    assert unclear.verdict == "nothing gained"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": 2}, "2 epochs of 14 steps = 28 steps"),
        ({"epochs": 2, "max_steps": 20}, "20 steps, 1.4 epochs of 14 steps"),
        ({"max_steps": 6}, "6 steps, 0.4 epochs of 14 steps"),
        ({"epochs": 1}, "1 epoch of 14 steps = 14 steps"),
    ],
    ids=["whole", "ends inside", "less than one", "one"],
)
def test_the_length_of_a_plan_adds_up(options, text):
    # It said "2 epochs of 14 steps = 20 steps", and "1 epochs of 12 steps = 6 steps".
    assert f"plan: {text}, warm-up" in make_plan(config(**options), 4, 1, 14, 10_000).lines()[0]


@pytest.mark.parametrize(("every", "warned"), [(0, False), (1, False), (2, True)])
def test_samples_that_are_never_written_are_warned_of(every, warned):
    plan = make_plan(config(max_steps=20, sample_every=every), 4, 1, 14, 10_000)
    assert any("--sample-every 2: no sample is written" in text for text in plan.warnings) == warned


def test_the_plan_has_room_for_further_lines():
    plan = dataclasses.replace(make_plan(config(), 4, 1, 14, 10_000), notes=("99,328 parameters",))
    assert "      99,328 parameters" in plan.lines()


@pytest.mark.parametrize(("rows", "words"), [(1, "1 row x 4 accumulated"), (2, "2 rows x 4 accumulated")])
def test_a_plan_says_what_its_time_is_of(rows, words):
    plan = dataclasses.replace(make_plan(config(), rows, 4, 14, 10_000), seconds=7.0, memory=2**30)
    text = "\n".join(plan.lines())
    assert words in text
    assert "at most 7 s for the steps (by a probe), evaluations and samples not counted; memory 1.0 GiB so far" in text
