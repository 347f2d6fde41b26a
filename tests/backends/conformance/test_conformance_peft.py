"""Training and adapter files against vanilla PEFT, for every backend: DoRA, rsLoRA and LoRA+."""

from __future__ import annotations

import warnings
from dataclasses import replace

import audio_toys
import numpy as np
import peft_reference as reference
import pytest
import tolerance
import toys
from require import require
from toys import gradient_tolerance, path

from musiclora.backends import token_batches
from musiclora.backends.base import OptimSpec
from musiclora.convert.adapters.lora import split_magnitudes
from musiclora.convert.adapters.peft import read_peft, write_peft

KINDS = {
    "LoRA": toys.SPEC,
    "rsLoRA": replace(toys.SPEC, rslora=True),
    "DoRA": replace(toys.SPEC, dora=True),
    "DoRA and rsLoRA": replace(toys.SPEC, dora=True, rslora=True),
}
SEED, DROPOUT = 3, 0.3


@pytest.fixture(autouse=True)
def peft():
    require("torch")
    require("transformers")
    return require("peft")


@pytest.fixture(params=["rectangular", "square"])
def toy(request, backend, folders):
    """Toys with gradients of size one; those of the third reach 40 and lose two digits more, in PEFT as well."""
    return toys.Toy(backend, folders[request.param], toys.CONFIGS[request.param])


@pytest.fixture(params=KINDS)
def spec(request):
    return KINDS[request.param]


def limit_of(toy, batch, *arrays):
    return gradient_tolerance(toy.config, batch["tokens"].size, batch["tokens"].shape[1], *arrays)


def first_moments(training):
    """Read the gradients of a first step off its first moments, which are a tenth of them."""
    state = {k: v for k, v in training.read_state().items() if k.startswith("exp_avg.")}
    return {k.removeprefix("exp_avg."): 10 * v for k, v in state.items()}


@pytest.mark.parametrize("dropout", [0.0, DROPOUT], ids=["plain", "dropout"])
def test_loss_and_gradients_are_those_of_peft(toy, spec, dropout):
    """With dropout PEFT's layers get the masks of the backend's own pool."""
    spec, batch = replace(spec, dropout=dropout), toy.batch()
    state = toy.state(spec)
    masks = reference.masks_of(toy, spec, batch, SEED) if dropout else None
    loss, expected = reference.gpt2_gradients(toy, spec, state, batch, masks)
    model = toy.adapted(spec, state)
    training = model.start_training(OptimSpec(max_grad_norm=0.0, seed=SEED))
    result = training.step([batch], 1e-4)
    weight = token_batches.count_tokens(batch)
    assert result.loss / weight == pytest.approx(loss, rel=tolerance.rounding(path(toy.config, 13)))
    found = first_moments(training)
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert np.abs(value).max() > 1e-5, name
        tolerance.assert_near(found[name], value, limit_of(toy, batch, expected, state), name)


def test_audio_loss_and_gradients_are_those_of_peft(flow_one):
    spec, batch = replace(audio_toys.SPEC, dora=True), flow_one.batch()
    state = flow_one.state(spec)
    loss, expected = reference.flow_gradients(flow_one, spec, state, batch)
    model = flow_one.adapted(spec, state)
    training = model.start_training(OptimSpec(max_grad_norm=0.0))
    result = training.step([batch], 1e-4)
    length = batch["valid"].shape[1]
    assert result.loss / result.weight == pytest.approx(loss, rel=audio_toys.loss_tolerance(flow_one.config, length))
    found = first_moments(training)
    largest = max(np.abs(value).max() for value in expected.values())
    limit = audio_toys.gradient_tolerance(flow_one.config, batch["valid"].size, length, largest)
    for name, value in expected.items():
        tolerance.assert_near(found[name], value, limit, name)


@pytest.mark.parametrize("kind", ["LoRA", "DoRA"])
def test_three_lora_plus_steps_are_those_of_pefts_optimiser(square, kind):
    """With eps = 1 a step is proportional to small gradients, so that their rounding is not blown up."""
    spec, batches = KINDS[kind], [square.batch(seed=seed) for seed in range(3)]
    state, ratio, lr, decay = square.state(spec), 5.0, 0.5, 0.1
    expected = reference.lora_plus_steps(square, spec, state, batches, ratio=ratio, lr=lr, weight_decay=decay, eps=1.0)
    model = square.adapted(spec, state)
    optim = OptimSpec(weight_decay=decay, eps=1.0, max_grad_norm=0.0, lora_plus_ratio=ratio)
    training = model.start_training(optim)
    for batch in batches:
        training.step([batch], lr)
    # Each of three steps, the longest of ratio * lr times a gradient, is off by that gradient's rounding; what is off
    # after one step changes the next gradients by about as much again.
    limit = 2 * 3 * ratio * lr * limit_of(square, batches[0], expected, state)
    for name, value in model.read_adapter().items():
        tolerance.assert_near(value, expected[name], limit, name)
        assert np.abs(expected[name] - state[name]).max() > 100 * limit, name


def test_plain_peft_loads_a_trained_adapter_without_a_word_and_computes_the_same(toy, spec, tmp_path):
    model, batch = toy.adapted(spec, toy.state(spec)), toy.batch()
    model.start_training(OptimSpec()).step([batch], 0.01)
    state, magnitudes = split_magnitudes(model.read_adapter())
    write_peft(tmp_path / "a", spec, state, base_model="toy", magnitudes=magnitudes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")
        theirs = reference.load_peft(toy.folder, tmp_path / "a")
    logits = reference.logits(theirs, batch)
    tolerance.assert_near(model.logits(batch), logits, tolerance.logits(logits))
    found, weight = model.loss(batch).mean, token_batches.count_tokens(batch)
    expected = reference.loss(theirs, batch).item() / weight
    assert found == pytest.approx(expected, abs=2 * tolerance.logits(logits))


def test_an_adapter_that_peft_made_and_saved_is_computed_alike(toy, spec, tmp_path):
    expected = reference.save_random_adapter(toy, spec, tmp_path / "theirs", toy.batch())
    adapter = read_peft(tmp_path / "theirs")
    assert (adapter.spec.dora, adapter.spec.rslora) == (spec.dora, spec.rslora)
    model = toy.load()
    model.inject_adapter(adapter.spec, adapter.model_state)
    tolerance.assert_near(model.logits(toy.batch()), expected, tolerance.logits(expected))


def test_audio_adapter_computes_in_plain_peft_what_it_does_here(flow_toy, tmp_path):
    spec = replace(audio_toys.SPEC, dora=True)
    model, batch = flow_toy.adapted(spec, flow_toy.state(spec)), flow_toy.batch()
    state, magnitudes = split_magnitudes(model.read_adapter())
    form = {"task_type": None, "fan_in_fan_out": False}
    write_peft(tmp_path / "a", spec, state, base_model="toy", magnitudes=magnitudes, **form)
    expected = reference.flow_loss(flow_toy, tmp_path / "a", batch)
    length = batch["valid"].shape[1]
    assert model.loss(batch).mean == pytest.approx(expected, rel=audio_toys.loss_tolerance(flow_toy.config, length))
