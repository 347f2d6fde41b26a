"""ACE-Step's adapters on torch: gradients and sampling against diffusers with PEFT, dropout, fusing, resuming."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tolerance
from acestep_flow_toys import (
    CONFIGS,
    PARITY,
    SPEC,
    adapter_state,
    conditioning_of,
    flow_batch,
    random_tensors,
    uneven_batch,
)
from require import require

torch = require("torch")
require("diffusers")

import acestep_diffusers as reference  # noqa: E402

from musiclora.backends.base import OptimSpec  # noqa: E402
from musiclora.backends.torch.acestep import TorchAceStep  # noqa: E402
from musiclora.backends.torch.lora import DropoutPool  # noqa: E402
from musiclora.backends.torch.objectives import FlowObjective  # noqa: E402
from musiclora.convert.errors import BackendError  # noqa: E402

GRADIENTS = 1e-4  # what the interface promises, relative to the largest value of an array
_OTHERS = ("gate_proj", "up_proj", "down_proj", "linear_1", "linear_2", "time_proj", "condition_embedder")
DROPOUT = replace(SPEC, dropout=0.5)
SPECS = {
    "lora": SPEC,
    "rslora": replace(SPEC, rslora=True),
    "dora": replace(SPEC, dora=True),
    "every linear layer": replace(SPEC, targets=(*SPEC.targets, *_OTHERS)),
}


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def config(request):
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def tensors(config):
    return random_tensors(reference.tensor_shapes(config))


@pytest.fixture(scope="module")
def one():
    config = CONFIGS["rectangular"]
    return config, random_tensors(reference.tensor_shapes(config))


def adapted(config, tensors, spec=SPEC, seed=1, dtype=torch.float32):
    model = TorchAceStep(config, tensors, dtype)
    model.inject_adapter(spec, adapter_state(model, spec, seed))
    return model


def gradients(model, batch, masks=None, checkpointing=False):
    """Of the loss sum."""
    named = FlowObjective(model, False).trained()
    for parameter in named.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    model.loss_sum(batch, masks, checkpointing).backward()
    return {name: parameter.grad.numpy() for name, parameter in named.items()}


def assert_gradients_near(found, expected):
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        # One scale for all arrays: those of a time's embedding may cancel to nearly nothing.
        limit = GRADIENTS * max(float(np.abs(g).max()) for g in expected.values())
        tolerance.assert_near(found[name], value, limit, name)


def guided(model, batch, guidance=2.0):
    return model.velocity(batch["noise"], batch["time"], model.prepare(conditioning_of(batch)), guidance)


def near(found, expected, limit=PARITY):
    tolerance.assert_near(found, expected, limit * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_gradients_equal_those_of_diffusers_with_peft(config, tensors, spec):
    model, batch = adapted(config, tensors, spec), flow_batch(config)
    plain, parameters = reference.adapted(config, tensors, spec, model.read_adapter())
    loss = reference.loss(plain, batch)
    loss.backward()
    expected = {name: parameter.grad.numpy() for name, parameter in parameters.items()}
    assert_gradients_near(gradients(model, batch), expected)
    assert model.loss(batch).total == pytest.approx(loss.item(), rel=PARITY)
    assert min(float(np.abs(value).max()) for value in expected.values()) > 0


def test_sampling_merges_the_adapter_and_equals_diffusers_with_peft(config, tensors):
    model, batch = adapted(config, tensors), flow_batch(config)
    plain, _ = reference.adapted(config, tensors, SPEC, model.read_adapter())
    given = (batch, reference.with_null(batch, tensors))
    p, q = (reference.velocity(plain, b, batch["noise"], batch["time"]) for b in given)
    found = guided(model, batch)
    near(found, p + 2 * (p - q), 5 * PARITY)
    assert np.abs(found - guided(TorchAceStep(config, tensors), batch)).max() > 0.01


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_fused_adapter_computes_the_same(one, spec):
    config, tensors = one
    model, batch = adapted(config, tensors, spec), flow_batch(config)
    loss, velocity = model.loss(batch).total, guided(model, batch)
    model.fuse()
    assert model.spec is None
    assert model.loss(batch).total == pytest.approx(loss, rel=1e-5)  # sums in another order
    near(guided(model, batch), velocity, 1e-5)
    plain = reference.transformer(config, dict(model.read_weights()))
    near(guided(model, batch, 0.0), reference.velocity(plain, batch, batch["noise"], batch["time"]))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_an_adapter_that_is_off_leaves_the_base_bit_for_bit(one, spec):
    config, tensors = one
    base, model, batch = TorchAceStep(config, tensors), adapted(config, tensors, spec), flow_batch(config)
    changed = model.loss(batch).total
    model.set_adapter(False)
    assert model.loss(batch) == base.loss(batch)
    np.testing.assert_array_equal(guided(model, batch), guided(base, batch))
    model.set_adapter(True)
    assert model.loss(batch).total == changed != base.loss(batch).total


def test_padding_reaches_no_gradient(one):
    """Neither what it holds nor how much of it there is."""
    config, tensors = one
    found = [gradients(adapted(config, tensors), uneven_batch(config, padding)) for padding in (3.0, np.nan)]
    for name, value in found[0].items():
        np.testing.assert_array_equal(found[1][name], value, err_msg=name)
    more = uneven_batch(config)
    more["condition"] = np.pad(more["condition"], ((0, 0), (4, 9), (0, 0)), constant_values=1)
    more["condition_valid"] = np.pad(more["condition_valid"], ((0, 0), (4, 9)))
    for name, value in gradients(adapted(config, tensors), more).items():
        np.testing.assert_array_equal(value, found[0][name], err_msg=name)


def test_a_dropped_condition_has_the_gradients_of_the_null_condition(one):
    config, tensors = one
    model, batch = adapted(config, tensors), flow_batch(config)
    expected = gradients(model, reference.with_null(batch, tensors))
    found = gradients(model, {**batch, "drop_condition": np.ones(2, bool)})
    assert_gradients_near(found, expected)


@pytest.mark.parametrize("spec", [DROPOUT, replace(DROPOUT, dora=True)], ids=["lora", "dora"])
def test_dropout_multiplies_by_the_masks_of_the_pool(one, spec):
    """PEFT's own layers, given the same multipliers, have the same gradients."""
    config, tensors = one
    model, batch = adapted(config, tensors, spec), flow_batch(config)
    pool = DropoutPool(3, spec.dropout, torch.float32, torch.device("cpu"))
    found = gradients(model, batch, pool)
    plain, parameters = reference.adapted(config, tensors, spec, model.read_adapter())

    class Fixed(torch.nn.Module):  # type: ignore[name-defined]  # torch is imported by `require`
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            return x * pool(self.name, x.numel() // x.shape[-1], x.shape[-1]).view(x.shape)

    for name in model.names:
        plain.get_submodule(f"{reference.theirs(name)}.lora_dropout").add_module("default", Fixed(name))
    reference.loss(plain.train(), batch).backward()  # PEFT's DoRA drops nothing in eval mode
    assert_gradients_near(found, {name: parameter.grad.numpy() for name, parameter in parameters.items()})


@pytest.mark.parametrize("spec", [*SPECS.values(), DROPOUT], ids=[*SPECS, "dropout"])
def test_checkpointing_changes_no_gradient(one, spec):
    config, tensors = one
    pool = DropoutPool(1, spec.dropout, torch.float32, torch.device("cpu")) if spec.dropout else None
    batch = uneven_batch(config)
    without, found = (gradients(adapted(config, tensors, spec), batch, pool, on) for on in (False, True))
    assert_gradients_near(found, without)


def test_a_resumed_training_goes_on_exactly(one):
    config, tensors = one

    def start():
        model = adapted(config, tensors, replace(SPEC, dropout=0.3))
        return model, model.start_training(OptimSpec(seed=4, checkpointing=True))

    batches = [{**uneven_batch(config), "drop_condition": np.array([i == 1, False, i == 3])} for i in range(4)]
    model, training = start()
    for given in batches[:2]:
        training.step([given], 1e-2)
    kept = training.read_state(), model.read_adapter()
    expected = [training.step([given], 1e-2) for given in batches[2:]]
    other, resumed = start()
    other.write_adapter(kept[1])
    resumed.write_state(kept[0])
    assert [resumed.step([given], 1e-2) for given in batches[2:]] == expected
    for key, value in model.read_adapter().items():
        np.testing.assert_array_equal(other.read_adapter()[key], value, err_msg=key)


def test_a_half_precision_base_trains_a_float32_adapter(one):
    config, tensors = one
    model, batch = adapted(config, tensors, replace(SPEC, dropout=0.1), dtype=torch.bfloat16), uneven_batch(config)
    base = dict(model.read_weights())
    training = model.start_training(OptimSpec(checkpointing=True))
    losses = [training.step([batch], 1e-2).loss for _ in range(6)]
    assert losses[-1] < losses[0]
    assert losses[0] == pytest.approx(adapted(config, tensors).loss(batch).total, rel=0.1)
    assert all(value.dtype == torch.float32 for value in model.adapter_parameters().values())
    for name, value in model.read_weights():
        np.testing.assert_array_equal(value, base[name], err_msg=name)


def test_a_step_of_all_weights_moves_what_has_a_gradient_and_lowers_the_loss(one):
    config, tensors = one
    model, batch = TorchAceStep(config, tensors), flow_batch(config)
    first, training = model.loss(batch).mean, model.start_training(OptimSpec(weight_decay=0.0), "all")
    for _ in range(3):
        training.step([batch], 1e-3)
    assert model.loss(batch).mean < first
    still = [name for name, value in model.read_weights() if np.array_equal(value, tensors[name])]
    assert still == ["null_condition_emb"]


def test_preparing_shares_the_weights_that_the_adapter_does_not_touch(one):
    config, tensors = one
    model = adapted(config, tensors)
    prepared = model.prepare(conditioning_of(flow_batch(config)))
    theirs = {name: value.data_ptr() for name, value in prepared.module.named_parameters()}
    ours = {name: value.data_ptr() for name, value in model.base_parameters().items()}
    assert {name for name in ours if ours[name] != theirs[name]} == {f"{name}.weight" for name in model.names}
    before = model.velocity(flow_batch(config)["noise"], 0.5, prepared, 2.0)
    model.write_adapter(adapter_state(model, seed=9))
    np.testing.assert_array_equal(model.velocity(flow_batch(config)["noise"], 0.5, prepared, 2.0), before)


def test_nothing_draws_from_the_global_random_state(one):
    config, tensors = one
    before = torch.random.get_rng_state()
    model = adapted(config, tensors, DROPOUT)
    model.start_training(OptimSpec(checkpointing=True)).step([flow_batch(config)], 0.01)
    guided(model, flow_batch(config))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_refuses_what_it_cannot_do(one):
    config, tensors = one
    with pytest.raises(BackendError, match="inject_adapter"):
        TorchAceStep(config, tensors).start_training(OptimSpec())
    with pytest.raises(BackendError, match="fuse it"):
        adapted(config, tensors).start_training(OptimSpec(), "all")
    with pytest.raises(BackendError, match="float32"):
        TorchAceStep(config, tensors, torch.bfloat16).start_training(OptimSpec(), "all")


def test_the_adapter_of_the_full_size_has_the_known_number_of_parameters():
    """Rank 64 on q, k, v and o of 24 layers: 22.0 million in self attention, as many in cross attention."""
    from musiclora.backends.torch.acestep_module import empty_module, linear_shapes
    from musiclora.convert.adapters.lora import match_targets, state_shapes
    from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating

    sizes = StackConfig(2048, 6144, 16, 8, 128)
    shapes = linear_shapes(empty_module(AceStepConfig(sizes, sizes, alternating(24))))
    spec = replace(SPEC, rank=64)
    counts = {part: 0 for part in ("self_attn", "cross_attn")}
    for name, shape in state_shapes(spec, shapes).items():
        counts[name.split(".")[2]] += int(np.prod(shape))
    assert len(match_targets(shapes, spec.targets)) == 192
    assert counts == {"self_attn": 22_020_096, "cross_attn": 22_020_096}
