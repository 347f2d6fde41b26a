"""Properties of training steps, once for every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tolerance
from toys import (
    PROPORTIONAL,
    SPEC,
    assert_near_gradients,
    assert_same,
    formula_tensors,
    gradient_tolerance,
    norm,
)

from musiclora.backends.base import FAMILIES, OptimSpec
from musiclora.convert.errors import MusicLoraError
from musiclora.convert.models.gpt2 import write_checkpoint

DROPOUT = replace(SPEC, dropout=0.3)


def numpy_adamw(values, gradients, optim, lr):
    """Loshchilov and Hutter's algorithm 2 with bias correction, in float64; gradients(values) is asked each step.

    Returns the new values, and the smallest absolute value that each entry's gradient had.
    """
    smallest = {k: np.full(v.shape, np.inf) for k, v in values.items()}
    first = {k: np.zeros(v.shape) for k, v in values.items()}
    second = {k: np.zeros(v.shape) for k, v in values.items()}
    for step in (1, 2, 3):
        found = gradients(values)
        size = norm(found)
        scale = min(1.0, optim.max_grad_norm / size) if optim.max_grad_norm else 1.0
        for name, gradient in found.items():
            smallest[name] = np.minimum(smallest[name], np.abs(gradient))
            g = gradient * scale
            first[name] = optim.betas[0] * first[name] + (1 - optim.betas[0]) * g
            second[name] = optim.betas[1] * second[name] + (1 - optim.betas[1]) * g**2
            ahead = first[name] / (1 - optim.betas[0] ** step)
            spread = np.sqrt(second[name] / (1 - optim.betas[1] ** step)) + optim.eps
            decayed = values[name] * (1 - lr * optim.weight_decay)
            values = {**values, name: (decayed - lr * ahead / spread).astype(np.float32)}
    return values, smallest


def test_only_adapter_arrays_move(toy):
    model = toy.adapted()
    model.start_training(OptimSpec()).step([toy.batch()], 0.01)
    for name, value in model.read_adapter().items():
        assert np.abs(value - toy.state()[name]).max() > 1e-4, name
    assert_same(dict(model.read_weights()), formula_tensors(toy.config))
    model.set_adapter(False)
    np.testing.assert_array_equal(model.logits(toy.batch()), toy.load().logits(toy.batch()))


def slope(loss_at, step):
    """Differentiate a loss at 0 by central differences of two steps, whose errors of second order cancel.

    What is left is of fourth order, (step / width)^4 of the slope where the loss bends within a width: 0.1 and more for
    a toy's adapter, 0.03 for an array of its weights. A mean loss that float32 gives to 1e-6 leaves 1.5e-6 / step.
    """
    near, far = (loss_at(width) - loss_at(-width) for width in (step, 2 * step))
    return (8 * near - far) / (12 * step)


def test_gradient_is_the_slope_of_the_mean_loss(toy):
    state, batch = toy.state(), toy.batch()
    gradient = toy.gradient(state, [batch])
    model, size = toy.load(), norm(gradient)

    def loss_at(step):
        model.inject_adapter(SPEC, {k: (v + step * gradient[k] / size).astype(np.float32) for k, v in state.items()})
        return model.loss(batch).mean

    assert slope(loss_at, 0.01) == pytest.approx(size, rel=1e-3)


def test_step_reports_loss_weight_and_the_norm_before_clipping(toy):
    model, batch = toy.adapted(), toy.batch()
    expected = model.loss(batch)
    gradient = toy.gradient(toy.state(), [batch])
    found = model.start_training(OptimSpec(max_grad_norm=1e-3)).step([batch], 0.01)
    limit = 2 * expected.weight * tolerance.logits(model.logits(batch))  # another form of the loss
    assert (found.weight, found.loss) == (expected.weight, pytest.approx(expected.total, rel=0, abs=limit))
    assert found.grad_norm == pytest.approx(norm(gradient), rel=1e-3)


@pytest.mark.parametrize(
    "optim",
    [OptimSpec(max_grad_norm=0.0), OptimSpec(max_grad_norm=0.05), OptimSpec(weight_decay=0.3, betas=(0.8, 0.95))],
    ids=["plain", "clipped", "decayed"],
)
def test_three_steps_equal_adamw_in_numpy(square, optim):
    batch, lr = square.batch(), 0.01
    seen = []

    def gradients(values):
        seen.append(square.gradient(values, [batch]))
        return seen[-1]

    expected, smallest = numpy_adamw(square.state(), gradients, optim, lr)
    model = square.adapted()
    training = model.start_training(optim)
    for _ in range(3):
        training.step([batch], lr)
    # A step is lr times a ratio of gradients, so that each of three steps is off by their relative errors, first and
    # second moment together twice; no step is longer than three. Six roundings in a step of a value of size one follow.
    noise = gradient_tolerance(square.config, batch["tokens"].size, batch["tokens"].shape[1], square.state(), *seen)
    for name, found in model.read_adapter().items():
        limit = lr * np.minimum(3 * 2 * noise / np.maximum(smallest[name], 1e-30), 6) + tolerance.rounding(18)
        assert (np.abs(found - expected[name]) <= limit).all(), name
        assert np.median(limit) < 0.1 * lr  # a step without bias correction is three times as long


@pytest.mark.parametrize("split", [(1, 7), (3, 5), (8, 0)], ids=["1+7", "3+5", "8+0"])
def test_accumulation_equals_one_batch(toy, split):
    """Micro-batches count by their scored tokens, not each as one."""
    batch = toy.batch(rows=2, length=9)
    batch["loss_mask"][:] = False
    batch["loss_mask"][0, 1 : 1 + split[0]] = True
    batch["loss_mask"][1, 1 : 1 + split[1]] = True
    results, adapters = [], []
    for micro in ([batch], [{k: v[:1] for k, v in batch.items()}, {k: v[1:] for k, v in batch.items()}]):
        model = toy.adapted()
        results.append(model.start_training(PROPORTIONAL).step(micro, 1.0))
        adapters.append(model.read_adapter())
    assert results[0].weight == results[1].weight == 8
    # Products of other shapes are summed in another order by the BLAS.
    limit = 2 * 8 * tolerance.logits(toy.adapted().logits(batch))
    assert results[0].loss == pytest.approx(results[1].loss, rel=0, abs=limit)
    relative = gradient_tolerance(toy.config, batch["tokens"].size, 9, {"": np.ones(1)})
    assert results[0].grad_norm == pytest.approx(results[1].grad_norm, rel=relative)
    assert_near_gradients(toy, batch, *adapters)


@pytest.mark.slow
def test_loss_falls_on_a_batch_learnt_by_heart(toy):
    model, batch = toy.adapted(), toy.batch()
    before = model.loss(batch).mean
    training = model.start_training(OptimSpec(weight_decay=0.0))
    for _ in range(30):
        training.step([batch], 0.05)
    assert model.loss(batch).mean < before / 2


@pytest.mark.parametrize("trainable", ["adapter", "all"])
@pytest.mark.parametrize("spec", [SPEC, DROPOUT], ids=["plain", "dropout"])
def test_training_resumed_from_read_state_equals_unbroken(toy, tmp_path, spec, trainable):
    def begin(folder):
        model = toy.backend.load(FAMILIES["symbolic"], folder)
        if trainable == "adapter":
            model.inject_adapter(spec, toy.state())
        return model, model.start_training(OptimSpec(seed=4), trainable)

    batches = [toy.batch(seed=n) for n in range(4)]
    whole, training = begin(toy.folder)
    for batch in batches:
        training.step([batch], 0.01)
    model, training = begin(toy.folder)
    for batch in batches[:2]:
        training.step([batch], 0.01)
    state = training.read_state()
    write_checkpoint(tmp_path / "half", toy.config, model.read_weights(), "hf")
    resumed, again = begin(tmp_path / "half")
    if trainable == "adapter":
        resumed.write_adapter(model.read_adapter())
    again.write_state(state)
    assert_same(again.read_state(), state)
    for batch in batches[2:]:
        again.step([batch], 0.01)
    assert_same(dict(resumed.read_weights()), dict(whole.read_weights()))
    if trainable == "adapter":
        assert_same(resumed.read_adapter(), whole.read_adapter())


def test_write_state_that_does_not_fit_raises_and_names_it(square):
    training = square.adapted().start_training(OptimSpec())
    state = dict(training.read_state())
    name = next(k for k, v in state.items() if np.ndim(v) == 2)
    del state[name]
    with pytest.raises(MusicLoraError, match=name):
        training.write_state(state)


def test_read_state_is_a_copy(square):
    training = square.adapted().start_training(OptimSpec())
    training.step([square.batch()], 0.01)
    state = training.read_state()
    kept = {k: np.copy(v) for k, v in state.items()}
    training.step([square.batch()], 0.01)
    assert_same(state, kept)


def test_non_finite_loss_leaves_everything_untouched(square):
    """An adapter of 1e30 overflows in the forward pass; afterwards training goes on as if nothing had happened."""
    model, batch = square.adapted(), square.batch()
    training = model.start_training(OptimSpec())
    training.step([batch], 0.01)
    good, state = model.read_adapter(), training.read_state()
    poisoned = {k: np.full_like(v, 1e30) for k, v in good.items()}
    model.write_adapter(poisoned)
    result = training.step([batch], 0.01)
    assert not (np.isfinite(result.loss) and np.isfinite(result.grad_norm))
    assert_same(model.read_adapter(), poisoned)
    assert_same(training.read_state(), state)
    model.write_adapter(good)
    training.step([batch], 0.01)
    other = square.adapted()
    unbroken = other.start_training(OptimSpec())
    for _ in range(2):
        unbroken.step([batch], 0.01)
    assert_same(model.read_adapter(), other.read_adapter())


def test_step_without_scored_targets_changes_nothing(square):
    model, batch = square.adapted(), square.batch()
    batch["loss_mask"][:] = False
    result = model.start_training(OptimSpec()).step([batch], 0.01)
    assert (result.loss, result.weight) == (0.0, 0.0)
    assert_same(model.read_adapter(), square.state())


def test_pad_only_micro_batch_changes_nothing(square):
    batch = square.batch()
    empty = {k: np.zeros_like(v) for k, v in batch.items()}
    adapters = []
    for micro in ([batch], [batch, empty]):
        model = square.adapted()
        model.start_training(PROPORTIONAL).step(micro, 1.0)
        adapters.append(model.read_adapter())
    assert_near_gradients(square, batch, *adapters)


def test_all_weights_train_and_move(toy):
    model, batch, base = toy.load(), toy.batch(), formula_tensors(toy.config)
    before = model.loss(batch).mean
    training = model.start_training(OptimSpec(), "all")
    for _ in range(20):
        training.step([batch], 0.01)
    moved = dict(model.read_weights())
    assert sorted(moved) == sorted(base)
    assert all(np.abs(moved[k] - base[k]).max() > 1e-3 for k in base)
    assert model.loss(batch).mean < before / 2


@pytest.mark.slow
def test_all_weights_gradient_is_the_slope_of_the_mean_loss(toy, tmp_path):
    batch, base = toy.batch(), formula_tensors(toy.config)
    model = toy.load()
    optim = OptimSpec(weight_decay=0.0, eps=1.0, max_grad_norm=0.0)
    result = model.start_training(optim, "all").step([batch], 1.0)
    moved = {k: (base[k] - v).astype(np.float64) for k, v in model.read_weights()}
    gradient = {k: v / (1 - np.abs(v)) for k, v in moved.items()}
    assert result.grad_norm == pytest.approx(norm(gradient), rel=1e-3)
    for name in gradient:  # array by array, so that none hides behind a larger one
        size = norm({name: gradient[name]})

        def loss_at(step, name=name, size=size):
            tensors = {**base, name: (base[name] + step * gradient[name] / size).astype(np.float32)}
            folder = tmp_path / f"{name}{step}"
            write_checkpoint(folder, toy.config, tensors, "hf")
            return toy.backend.load(FAMILIES["symbolic"], folder).loss(batch).mean

        assert slope(loss_at, 0.005) == pytest.approx(size, rel=5e-3, abs=1e-3), name


def test_all_weights_cannot_train_under_an_adapter(square):
    with pytest.raises(MusicLoraError, match="adapter"):
        square.adapted().start_training(OptimSpec(), "all")


def test_evaluation_between_steps_does_not_disturb_training(square):
    adapters = []
    for evaluate in (False, True):
        model = square.adapted(DROPOUT)
        training = model.start_training(OptimSpec())
        for seed in range(3):
            training.step([square.batch(seed=seed)], 0.01)
            if evaluate:
                model.loss(square.batch(seed=9))
                model.set_adapter(False)
                model.logits(square.batch(seed=9))
                model.set_adapter(True)
        adapters.append(model.read_adapter())
    assert_same(*adapters)
