"""Validation of saved optimiser states and adapters, once for every backend and family."""

from __future__ import annotations

import numpy as np
import pytest
from toys import assert_same

from musiclora.backends.base import OptimSpec
from musiclora.convert.errors import ConvertError


@pytest.fixture(params=["symbolic", "audio"])
def any_toy(request, square, flow_one):
    return square if request.param == "symbolic" else flow_one


def spoil(state, kind):
    """Damage one array of a state; its name."""
    name = sorted(state)[0]
    if kind == "missing":
        del state[name]
    elif kind == "surplus":
        name = "exp_avg.nowhere.lora_A.weight"
        state[name] = np.zeros((3, 16), np.float32)
    elif kind == "mis_shaped":
        state[name] = state[name].T.copy()
    else:
        state[name] = np.where(np.arange(state[name].size).reshape(state[name].shape) == 2, np.nan, state[name])
    return name


@pytest.mark.parametrize("kind", ["missing", "surplus", "mis_shaped", "nan"])
def test_write_state_refuses_a_damaged_state_names_the_array_and_changes_nothing(any_toy, kind):
    training = any_toy.adapted().start_training(OptimSpec())
    training.step([any_toy.batch()], 1e-2)
    before, state = training.read_state(), training.read_state()
    name = spoil(state, kind)
    with pytest.raises(ConvertError) as caught:
        training.write_state(state)
    assert name in str(caught.value)
    assert "optimiser state" in str(caught.value)
    assert "adapter" not in str(caught.value).replace(name, "")
    assert_same(training.read_state(), before)


def test_write_state_names_all_problems_at_once(any_toy):
    training = any_toy.adapted().start_training(OptimSpec())
    state = training.read_state()
    names = [spoil(state, kind) for kind in ("missing", "nan", "surplus")]
    with pytest.raises(ConvertError) as caught:
        training.write_state(state)
    assert all(name in str(caught.value) for name in names)


def test_write_adapter_refuses_values_that_are_not_finite(any_toy):
    model = any_toy.adapted()
    before, state = model.read_adapter(), model.read_adapter()
    name = spoil(state, "nan")
    with pytest.raises(ConvertError, match=r"adapter.*non-finite") as caught:
        model.write_adapter(state)
    assert name in str(caught.value)
    assert_same(model.read_adapter(), before)
