"""Torch's own parts of training a flow model: gradients, checkpointing, dropout, the style vector, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tolerance
from audio_toys import (
    CONFIGS,
    SPEC,
    FlowToy,
    assert_adapter_gradients_follow_the_weights,
    gradient_tolerance,
    loss_tolerance,
    write_toy,
)
from require import require

torch = require("torch")

from musiclora.backends.base import FAMILIES, OptimSpec  # noqa: E402
from musiclora.backends.torch.backend import BACKEND  # noqa: E402
from musiclora.backends.torch.lora import DropoutPool  # noqa: E402
from musiclora.backends.torch.objectives import FlowObjective  # noqa: E402
from musiclora.convert.errors import BackendError  # noqa: E402

STYLE = np.sin(np.arange(512, dtype=np.float32)) * np.float32(0.05)
DROPOUT = replace(SPEC, dropout=0.5)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    config = CONFIGS["rectangular"]
    return FlowToy(BACKEND, write_toy(tmp_path_factory.mktemp("flow") / "model", config), config)


def bare(toy, seed=0):
    return {key: value for key, value in toy.batch(seed=seed).items() if key != "style"}


def gradients(model, batch, everything, masks=None, checkpointing=False):
    """Of the loss sum."""
    objective = FlowObjective(model, everything)
    named = objective.trained()
    for parameter in named.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    objective.loss(batch, masks, checkpointing).backward()
    return {name: parameter.grad.numpy().astype(np.float64) for name, parameter in named.items()}


def gradient_limit(toy, batch, gradients):
    """Two forms of the same products may add in different orders."""
    largest = max(float(np.abs(value).max()) for value in gradients.values())
    return gradient_tolerance(toy.config, batch["valid"].size, batch["valid"].shape[1], largest)


def test_gradients_of_the_adapter_are_those_of_the_weights_it_adds_to(toy):
    model, batch = toy.adapted(), toy.batch()
    assert_adapter_gradients_follow_the_weights(model, lambda everything: gradients(model, batch, everything))


def test_only_the_adapter_and_the_style_have_a_gradient(toy):
    model = toy.adapted()
    model.set_style(STYLE)
    model.start_training(OptimSpec()).step([bare(toy)], 1e-3)
    assert all(p.requires_grad and p.grad is not None for p in model.adapter_parameters().values())
    assert not any(p.requires_grad or p.grad is not None for p in model.base_parameters().values())


def test_gradients_with_dropout_equal_those_of_masked_products(toy):
    """Every module's mask is the pool's window for its name: PEFT's own dropout, fed with these, gives the same."""
    model, batch = toy.adapted(DROPOUT), bare(toy)
    model.set_style(STYLE)
    pool = DropoutPool(3, DROPOUT.dropout, torch.float32, torch.device("cpu"))
    pool.prefix = "0/0"
    asked = []

    def masks(name, rows, columns):
        asked.append((name, rows, columns))
        return pool(name, rows, columns)

    found = gradients(model, batch, False, masks)
    shapes, rows = toy.config.linear_shapes(), batch["text"].size
    assert sorted(name for name, _, _ in asked) == sorted(model.names)  # each once
    assert all(columns == shapes[name][1] for name, _, columns in asked)
    assert {count for name, count, _ in asked if name.startswith("transformer_blocks.")} == {rows}

    class Fixed(torch.nn.Module):  # type: ignore[name-defined]  # torch is imported by `require`
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            return x * pool(self.name, x.numel() // x.shape[-1], x.shape[-1]).view(x.shape)

    other = toy.adapted(SPEC)
    other.set_style(STYLE)
    for name in other.names:
        other.module.get_submodule(f"{name}.lora_dropout").add_module("default", Fixed(name))
    expected = gradients(other, batch, False)
    limit = gradient_limit(toy, batch, expected)
    for key, value in expected.items():
        tolerance.assert_near(found[key], value, limit, key)


@pytest.mark.parametrize("spec", [SPEC, DROPOUT], ids=["plain", "dropout"])
def test_checkpointing_changes_no_gradient(toy, spec):
    found = []
    for checkpointing in (False, True):
        model = toy.adapted(spec)
        model.set_style(STYLE)
        pool = DropoutPool(1, spec.dropout, torch.float32, torch.device("cpu")) if spec.dropout else None
        found.append(gradients(model, bare(toy), False, pool, checkpointing))
    limit = gradient_limit(toy, bare(toy), found[0])
    for key, value in found[0].items():
        tolerance.assert_near(found[1][key], value, limit, key)


def test_checkpointing_keeps_no_more_than_the_inputs_of_the_blocks(toy):
    sizes = {}
    for checkpointing in (False, True):
        model, kept = toy.adapted(), {}
        for parameter in model.adapter_parameters().values():
            parameter.requires_grad_(True)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.module.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.update({id(t): t}) or t, lambda t: t):
            model.loss_sum(toy.batch(), None, checkpointing)
        activations = [t for t in kept.values() if t.untyped_storage().data_ptr() not in weights]
        sizes[checkpointing] = sum(t.numel() for t in activations)
    rows, config = toy.batch()["text"].size, toy.config
    # A block keeps at least its two norms' and two products' results.
    assert sizes[False] - sizes[True] > config.depth * 4 * rows * config.dim


def test_dropout_is_applied_while_training_and_only_then(toy):
    given = toy.batch()
    expected = toy.adapted().loss(given)
    assert toy.adapted(DROPOUT).loss(given) == expected

    def trained(spec, seed):
        model = toy.adapted(spec)
        loss = model.start_training(OptimSpec(seed=seed)).step([given], 0.0).loss
        assert model.loss(given) == expected  # off again
        return loss

    assert trained(SPEC, 1) == pytest.approx(expected.total, rel=loss_tolerance(toy.config, 18))
    assert trained(DROPOUT, 1) == trained(DROPOUT, 1)
    assert len({round(loss, 2) for loss in (expected.total, trained(DROPOUT, 1), trained(DROPOUT, 2))}) == 3


def test_nothing_draws_from_the_global_random_state(toy):
    before = torch.random.get_rng_state()
    model = toy.adapted(DROPOUT)
    model.start_training(OptimSpec(checkpointing=True)).step([toy.batch()], 0.01)
    toy.velocity(model)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_style_vector_is_trained_with_the_adapter_and_kept_in_its_state(toy):
    model = toy.adapted()
    model.set_style(STYLE)
    training = model.start_training(OptimSpec(weight_decay=0.0))
    state = training.read_state()
    assert state["exp_avg.style"].shape == state["exp_avg_sq.style"].shape == (512,)
    training.step([bare(toy)], 1e-2)
    # the first step of AdamW moves a value by the learning rate, less where the gradient is no larger than eps
    moved = np.abs(model.read_style() - STYLE)
    assert moved.min() > 0
    np.testing.assert_allclose(np.quantile(moved, (0.1, 1.0)), 1e-2, rtol=1e-2)


@pytest.mark.parametrize("given", [{"style": np.ones((2, 512), np.float32)}, {"drop_style": True}], ids=["own", "drop"])
def test_a_style_that_has_no_part_in_a_batch_stays(toy, given):
    model = toy.adapted()
    model.set_style(STYLE)
    training = model.start_training(OptimSpec(weight_decay=0.0))
    assert training.step([{**bare(toy), **given}], 1e-2).loss > 0
    np.testing.assert_array_equal(model.read_style(), STYLE)


def test_a_resumed_training_goes_on_exactly(toy):
    def start():
        model = toy.adapted(replace(SPEC, dropout=0.3))
        model.set_style(STYLE)
        return model, model.start_training(OptimSpec(seed=4, checkpointing=True))

    batches = [bare(toy, seed) for seed in range(4)]
    model, training = start()
    for given in batches[:2]:
        training.step([given], 1e-2)
    kept = training.read_state(), model.read_adapter(), model.read_style()
    expected = [training.step([given], 1e-2) for given in batches[2:]]
    other, resumed = start()
    other.write_adapter(kept[1])
    other.set_style(kept[2])  # after start_training: it is filled, not replaced
    resumed.write_state(kept[0])
    assert [resumed.step([given], 1e-2) for given in batches[2:]] == expected
    np.testing.assert_array_equal(other.read_style(), model.read_style())
    for key, value in model.read_adapter().items():
        np.testing.assert_array_equal(other.read_adapter()[key], value, err_msg=key)


def test_a_step_of_all_weights_moves_all_of_them_and_lowers_the_loss(toy):
    model, given = toy.load(), toy.batch()
    before, first = dict(model.read_weights()), model.loss(given).mean
    training = model.start_training(OptimSpec(), "all")
    for _ in range(3):
        training.step([given], 1e-3)
    assert model.loss(given).mean < first
    assert not [name for name, value in model.read_weights() if np.array_equal(value, before[name])]


def test_a_half_precision_base_trains_a_float32_adapter(toy):
    model, given = BACKEND.load(FAMILIES["audio"], toy.folder, dtype="bfloat16"), toy.batch()
    model.inject_adapter(replace(SPEC, dropout=0.1), toy.state())
    base = dict(model.read_weights())
    training = model.start_training(OptimSpec(checkpointing=True))
    losses = [training.step([given], 1e-2).loss for _ in range(6)]
    assert losses[-1] < losses[0]
    assert losses[0] == pytest.approx(toy.adapted().loss(given).total, rel=0.1)
    assert all(value.dtype == np.float32 for value in model.read_adapter().values())
    for name, value in model.read_weights():
        np.testing.assert_array_equal(value, base[name], err_msg=name)


def test_training_refuses_what_it_cannot_do(toy):
    with pytest.raises(BackendError, match="inject_adapter"):
        toy.load().start_training(OptimSpec())
    with pytest.raises(BackendError, match="fuse it"):
        toy.adapted().start_training(OptimSpec(), "all")
    with pytest.raises(BackendError, match="float32"):
        BACKEND.load(FAMILIES["audio"], toy.folder, dtype="bfloat16").start_training(OptimSpec(), "all")


@pytest.mark.parametrize(
    "change",
    [
        lambda m, toy: m.set_style(STYLE),
        lambda m, toy: m.inject_adapter(SPEC, toy.state()),
        lambda m, toy: m.fuse(),
        lambda m, toy: m.start_training(OptimSpec()),
    ],
    ids=["a style", "another adapter", "fused", "another training"],
)
def test_a_training_whose_arrays_were_replaced_says_so(toy, change):
    model = toy.adapted()
    training = model.start_training(OptimSpec())
    change(model, toy)
    with pytest.raises(BackendError, match="start_training"):
        training.step([toy.batch()], 1e-3)
