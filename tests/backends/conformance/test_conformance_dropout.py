"""Dropout and gradient checkpointing on each backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import PROPORTIONAL, SPEC, assert_near_gradients, assert_same

from musiclora.backends.base import OptimSpec

DROPOUT = replace(SPEC, dropout=0.3)


def test_dropout_depends_on_the_seed_and_not_on_chance(square):
    found = {}
    for name, seed in {"one": 1, "again": 1, "two": 2}.items():
        model = square.adapted(DROPOUT)
        training = model.start_training(OptimSpec(seed=seed))
        for _ in range(2):
            training.step([square.batch()], 0.01)
        found[name] = model.read_adapter()
    assert_same(found["one"], found["again"])
    assert any(np.abs(found["one"][k] - found["two"][k]).max() > 1e-4 for k in found["one"])


def test_dropout_is_on_in_training_only_and_right_on_average(square):
    """The step's loss is that of masked inputs; its mean over seeds nears the loss without, to first order."""
    model, batch = square.adapted(DROPOUT), square.batch()
    exact = model.loss(batch)
    assert exact == square.adapted().loss(batch)
    losses = []
    for seed in range(12):
        losses.append(square.adapted(DROPOUT).start_training(OptimSpec(seed=seed)).step([batch], 0.0).loss)
    assert np.std(losses) > 0.01
    assert abs(np.mean(losses) - exact.total) < 4 * np.std(losses) + 0.05 * exact.total


@pytest.mark.parametrize("spec", [SPEC, DROPOUT], ids=["plain", "dropout"])
def test_checkpointing_changes_nothing(toy, spec):
    adapters = []
    for checkpointing in (False, True):
        model = toy.adapted(spec)
        training = model.start_training(replace(PROPORTIONAL, seed=3, checkpointing=checkpointing))
        training.step([toy.batch()], 1.0)
        adapters.append(model.read_adapter())
    assert_near_gradients(toy, toy.batch(), *adapters)
