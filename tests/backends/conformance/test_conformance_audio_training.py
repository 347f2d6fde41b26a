"""Properties of training steps on the audio transformers, once for every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import assert_close, assert_same, norm

from musiclora.backends.base import OptimSpec

PLAIN = OptimSpec(max_grad_norm=0.0)


def dropped(toy):
    """The toy's adapter with dropout."""
    return replace(toy.spec, dropout=0.3)


def slope(toy, state, batches, style=None):
    """The gradient of the mean loss: ten times the first moment after the first step."""
    model = toy.adapted(state=state)
    model.set_style(style)
    training = model.start_training(PLAIN)
    result = training.step(batches, 1e-4)
    moments = training.read_state()
    first = {k: v for k, v in moments.items() if k.startswith("exp_avg.")}
    found = {k.removeprefix("exp_avg."): 10 * v.astype(np.float64) for k, v in first.items()}
    assert result.grad_norm == pytest.approx(norm(found), rel=1e-4)
    return found


def test_only_adapter_arrays_move(any_toy):
    model = any_toy.adapted()
    model.start_training(OptimSpec()).step([any_toy.batch()], 0.01)
    for name, value in model.read_adapter().items():
        assert np.abs(value - any_toy.state()[name]).max() > 1e-4, name
    assert_same(dict(model.read_weights()), any_toy.tensors())
    model.set_adapter(False)
    np.testing.assert_array_equal(any_toy.velocity(model), any_toy.velocity(any_toy.load()))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gradient_is_the_slope_of_the_mean_loss_in_random_directions(any_toy, seed):
    state, batch = any_toy.state(), any_toy.batch()
    gradient, model = slope(any_toy, state, [batch]), any_toy.load()
    rng = np.random.default_rng(seed)
    # Half along the gradient, so that the slope stands out of float32's noise, half anywhere.
    size = norm(gradient)
    away = {k: rng.standard_normal(v.shape) for k, v in state.items()}
    direction = {k: gradient[k] / size + away[k] / norm(away) for k in state}
    expected, step, ends = sum(float(np.sum(gradient[k] * direction[k])) for k in state), 0.01, []
    for sign in (1, -1):
        model.inject_adapter(
            any_toy.spec, {k: (v + sign * step * direction[k]).astype(np.float32) for k, v in state.items()}
        )
        ends.append(model.loss(batch).mean)
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expected, rel=1e-2)


def test_style_is_trained_with_the_adapter_and_read_back(any_one):
    bare, style = any_one.bare(), any_one.style()
    gradient = slope(any_one, any_one.state(), [bare], style)["style"]
    size, step, ends = float(np.linalg.norm(gradient)), 0.01, []
    model = any_one.adapted()
    for sign in (1, -1):
        model.set_style((style + sign * step * gradient / size).astype(np.float32))
        ends.append(model.loss(bare).mean)
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(size, rel=1e-2)
    model.set_style(style)
    model.start_training(OptimSpec()).step([bare], 0.01)
    assert np.abs(model.read_style() - style).max() > 1e-3


def test_accumulation_equals_one_batch(any_toy):
    """Micro-batches count by their valid frames, not each as one: the second row has half of them."""
    batch = any_toy.batch()
    rows = [{k: v[row : row + 1] for k, v in batch.items()} for row in range(2)]
    whole, parts = (slope(any_toy, any_toy.state(), micro) for micro in ([batch], rows))
    largest = max(np.abs(v).max() for v in whole.values())
    assert_close(whole, parts, any_toy.gradient_tolerance(batch, largest))


@pytest.mark.slow
def test_loss_falls_on_a_batch_learnt_by_heart(any_toy):
    model, batch = any_toy.adapted(replace(any_toy.spec, rank=8, alpha=16.0)), any_toy.batch()
    before = model.loss(batch).mean
    training = model.start_training(OptimSpec(weight_decay=0.0))
    for _ in range(60):
        training.step([batch], 0.007)
    assert model.loss(batch).mean < 0.7 * before


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_resumed_from_read_state_equals_unbroken(any_one, dropout):
    spec = replace(any_one.spec, dropout=dropout)

    def begin():
        model = any_one.adapted(spec, any_one.state())
        model.set_style(any_one.style())
        return model, model.start_training(OptimSpec(seed=4))

    batches = [any_one.bare(seed=n) for n in range(4)]
    whole, training = begin()
    for batch in batches:
        training.step([batch], 0.01)
    half, training = begin()
    for batch in batches[:2]:
        training.step([batch], 0.01)
    resumed, again = begin()
    resumed.write_adapter(half.read_adapter())
    resumed.set_style(half.read_style())
    again = resumed.start_training(OptimSpec(seed=4))
    again.write_state(training.read_state())
    assert_same(again.read_state(), training.read_state())
    for batch in batches[2:]:
        again.step([batch], 0.01)
    assert_same(resumed.read_adapter(), whole.read_adapter())
    np.testing.assert_array_equal(resumed.read_style(), whole.read_style())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_nothing(any_one, dropout):
    spec, moments = replace(any_one.spec, dropout=dropout), []
    for checkpointing in (False, True):
        model = any_one.adapted(spec)
        training = model.start_training(OptimSpec(seed=3, checkpointing=checkpointing))
        training.step([any_one.batch()], 0.01)
        # The first moment is proportional to the gradient; AdamW's step is as large for the noise of one near zero.
        moments.append({k: v for k, v in training.read_state().items() if k.startswith("exp_avg.")})
    largest = max(np.abs(v).max() for v in moments[0].values())
    assert_close(moments[0], moments[1], any_one.gradient_tolerance(any_one.batch(), largest))


def test_dropout_depends_on_the_seed_and_is_off_in_evaluation(any_one):
    found = {}
    for name, seed in {"one": 1, "again": 1, "two": 2}.items():
        model = any_one.adapted(dropped(any_one))
        assert model.loss(any_one.batch()) == any_one.adapted().loss(any_one.batch())
        model.start_training(OptimSpec(seed=seed)).step([any_one.batch()], 0.01)
        found[name] = model.read_adapter()
    assert_same(found["one"], found["again"])
    assert any(np.abs(found["one"][k] - found["two"][k]).max() > 1e-4 for k in found["one"])


def test_batch_without_valid_frames_changes_nothing(any_one):
    model, batch = any_one.adapted(), any_one.batch()
    batch["valid"][:] = False
    result = model.start_training(OptimSpec()).step([batch], 0.01)
    assert (result.loss, result.weight) == (0.0, 0.0)
    assert_same(model.read_adapter(), any_one.state())


def test_non_finite_loss_leaves_everything_untouched(any_one):
    model, batch = any_one.adapted(), any_one.batch()
    training = model.start_training(OptimSpec())
    state = training.read_state()
    result = training.step([{**batch, "latents": np.full_like(batch["latents"], np.inf)}], 0.01)
    assert not (np.isfinite(result.loss) and np.isfinite(result.grad_norm))
    assert_same(model.read_adapter(), any_one.state())
    assert_same(training.read_state(), state)
