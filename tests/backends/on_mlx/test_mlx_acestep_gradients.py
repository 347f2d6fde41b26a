"""Gradients of adapters on ACE-Step's transformer: against torch, with padding, checkpointed, on quantised weights."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from acestep_reference import CONFIGS, network_inputs, original_name, random_tensor, transformer
from require import require

from musiclora.backends.mlx import acestep, acestep_weights, device
from musiclora.backends.mlx.decoder import ActiveAdapter
from musiclora.backends.mlx.kernels import grouped_attention, quantised
from musiclora.convert.adapters.lora import magnitude_key, match_targets, state_keys
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating
from musiclora.convert.models.quantise import dequantise_matrix, quantise_matrix

torch = require("torch")
require("diffusers")
peft = require("peft")

RANK, ALPHA = 3, 6.0
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
RELATIVE = 1e-4  # of the largest value of an array: float32 on both sides, as many roundings as the network is deep
LENGTHS = {"rectangular": 37, "odd": 50, "xl": 64}
QUANTISABLE = AceStepConfig(
    StackConfig(64, 96, 4, 2, 32),
    StackConfig(32, 64, 4, 2, 8),
    alternating(2),
    lyric_layers=1,
    timbre_layers=1,
    text_dim=16,
    latent_dim=4,
    sliding_window=4,
)


@pytest.fixture(scope="module", params=CONFIGS)
def case(request):
    """A configuration, canonical tensors, inputs and an adapter."""
    config = CONFIGS[request.param]
    _, tensors = transformer(config)
    return config, tensors, network_inputs(config, LENGTHS[request.param]), adapter_arrays(tensors)


@pytest.fixture(params=["cpu", "gpu"])
def kind(request, monkeypatch):
    """Both forms of attention; the one that a GPU takes runs on a CPU, too."""
    monkeypatch.setattr(device, "is_gpu", lambda: request.param == "gpu")
    monkeypatch.setattr(grouped_attention, "BLOCK_QUERIES", 8)


def adapter_arrays(tensors, dora=False):
    """Factors of all attention projections, B not zero."""
    stems = [name.removeprefix("decoder.").removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    found = {}
    for name in match_targets(stems, TARGETS):
        out, inputs = tensors[f"decoder.{name}.weight"].shape
        a, b = state_keys(name)
        found |= {a: random_tensor(a, (RANK, inputs)), b: random_tensor(b, (out, RANK)) * np.float32(0.3)}
        if dora:
            found[magnitude_key(name)] = 1 + np.abs(random_tensor(magnitude_key(name), (out,)))
    return found


def our_gradients(config, weights, given, factors, checkpointing=False, rows=slice(None)):
    """Loss, gradients of the adapter and of the condition; the loss is the sum of squares of some examples' output."""
    x, t, r, context, condition, valid = (mx.array(given[k]) for k in ("x", "t", "r", "context", "condition", "valid"))

    def loss(factors, condition):
        adapter = ActiveAdapter(factors, ALPHA / RANK)
        made = acestep.prepare(condition, valid, context, weights, adapter, config)
        found = acestep.predict(x, t, made, weights, adapter, config, r, checkpointing)
        return mx.square(found[rows].astype(mx.float32)).sum()

    arrays = {key: mx.array(value) for key, value in factors.items()}
    value, (grads, by_condition) = mx.value_and_grad(loss, argnums=(0, 1))(arrays, condition)
    return float(value), {key: np.array(grad) for key, grad in grads.items()}, np.array(by_condition)


def load(config, tensors, dtype=mx.float32):
    return acestep_weights.transformer_weights(tensors, config, dtype)


def reference_gradients(config, given, factors):
    """The same from diffusers' transformer with PEFT's layers, summed over the examples one by one."""
    model, _ = transformer(config)
    spec = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    model = peft.inject_adapter_in_model(spec, model)
    parameters = {
        original_name(name.replace(".default", "")): value
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    assert sorted(parameters) == sorted(factors)
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(torch.from_numpy(factors[name]))
    total = 0.0
    for i, valid in enumerate(given["valid"]):
        row = {key: torch.from_numpy(value[i : i + 1]) for key, value in given.items()}
        found = model(row["x"], row["t"], row["r"], row["condition"][:, valid], row["context"]).sample
        loss = found.square().sum()
        loss.backward()
        total += loss.item()
    return total, {name: value.grad.numpy() for name, value in parameters.items()}


def assert_agree(found, expected, relative=RELATIVE):
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        largest = np.abs(value).max()
        assert largest > 0, name
        assert np.abs(found[name] - value).max() <= relative * largest, name


def test_gradients_of_lora_agree_with_torch(case, kind):
    config, tensors, given, factors = case
    loss, grads, _ = our_gradients(config, load(config, tensors), given, factors)
    expected_loss, expected = reference_gradients(config, given, factors)
    assert loss == pytest.approx(expected_loss, rel=RELATIVE)
    assert_agree(grads, expected)


def test_checkpointed_blocks_give_the_same_gradients(case):
    config, tensors, given, factors = case
    weights = load(config, tensors)
    loss, grads, by_condition = our_gradients(config, weights, given, factors)
    again, checkpointed, by_condition_again = our_gradients(config, weights, given, factors, checkpointing=True)
    assert again == pytest.approx(loss, rel=1e-6)
    assert_agree(checkpointed, grads, 1e-5)
    assert_agree({"condition": by_condition_again}, {"condition": by_condition}, 1e-5)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("form", ["cpu", "gpu"])
def test_padding_reaches_no_gradient_even_where_it_is_nan(case, dtype, form, monkeypatch):
    monkeypatch.setattr(device, "is_gpu", lambda: form == "gpu")
    config, tensors, given, factors = case
    weights, found = load(config, tensors, dtype), []
    for value in (0.0, np.nan):
        condition = given["condition"].copy()
        condition[~given["valid"]] = value
        found.append(our_gradients(config, weights, {**given, "condition": condition}, factors))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        assert np.isfinite(value).all(), name
        np.testing.assert_array_equal(found[1][1][name], value, err_msg=name)
    assert not found[1][2][~given["valid"]].any()
    assert found[1][2][given["valid"]].any()


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("form", ["cpu", "gpu"])
def test_an_example_of_padding_only_gives_no_nan_and_no_gradient(case, dtype, form, monkeypatch):
    monkeypatch.setattr(device, "is_gpu", lambda: form == "gpu")
    config, tensors, given, factors = case
    valid, condition = given["valid"].copy(), given["condition"].copy()
    valid[1], condition[1] = False, np.nan
    empty = {**given, "valid": valid, "condition": condition}
    weights = load(config, tensors, dtype)
    loss, grads, by_condition = our_gradients(config, weights, empty, factors, rows=slice(1, 2))
    assert np.isfinite(loss)
    assert loss > 0
    assert not by_condition.any()
    for name, value in grads.items():
        assert np.isfinite(value).all(), name
        # Queries have no keys to choose from either, and the output's factor A sees zeros.
        unreached = "cross_attn" in name
        assert value.any() != unreached, name


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_quantised_weights_train_as_their_dequantised_form(dora):
    _, tensors = transformer(QUANTISABLE)
    given, factors = network_inputs(QUANTISABLE, 13), adapter_arrays(tensors, dora)
    packed, plain = load(QUANTISABLE, tensors), load(QUANTISABLE, tensors)
    for name, value in tensors.items():
        if ".layers." in name and value.ndim == 2 and "scale_shift" not in name:
            matrix, name = quantise_matrix(value, 8, 32), name.removeprefix("decoder.")
            packed |= quantised.load(name, matrix, mx.float32)
            plain[name] = mx.array(dequantise_matrix(matrix))
    found, expected = (our_gradients(QUANTISABLE, weights, given, factors) for weights in (packed, plain))
    assert found[0] == pytest.approx(expected[0], rel=RELATIVE)
    assert_agree(found[1], expected[1])


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_a_compiled_pass_gives_the_same_gradients():
    config = CONFIGS["xl"]
    tensors = transformer(config)[1]
    given, factors = network_inputs(config, 64), adapter_arrays(tensors)
    weights = load(config, tensors)
    expected = our_gradients(config, weights, given, factors)[1]
    arrays = {key: mx.array(value) for key, value in given.items()}

    def loss(factors, weights, arrays):
        adapter = ActiveAdapter(factors, ALPHA / RANK)
        made = acestep.prepare(arrays["condition"], arrays["valid"], arrays["context"], weights, adapter, config)
        found = acestep.predict(
            arrays["x"], arrays["t"], made, weights, adapter, config, arrays["r"], checkpointing=True
        )
        return mx.square(found).sum()

    step = mx.compile(mx.grad(loss))
    found = step({key: mx.array(value) for key, value in factors.items()}, weights, arrays)
    assert_agree({key: np.array(value) for key, value in found.items()}, expected, 1e-5)
