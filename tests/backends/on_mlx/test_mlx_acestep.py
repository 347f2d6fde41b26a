"""ACE-Step's transformer on MLX against diffusers' class with the same weights."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from acestep_reference import CONFIGS, network_inputs, random_tensor, transformer
from require import require

from musiclora.backends.mlx import acestep, acestep_weights, device, lora
from musiclora.backends.mlx.adapted import AdaptedWeights
from musiclora.backends.mlx.kernels import grouped_attention
from musiclora.convert.adapters.lora import LoraSpec, magnitude_key, state_keys, state_shapes

torch = require("torch")
require("diffusers")

# Relative to the largest value. Both sides round in float32 (6e-8) at each of some hundred operations in a row, and the
# angles of the time's sinusoids reach 1,000, so that one rounding of an angle moves a sinusoid by 6e-5.
RELATIVE = 2e-4
LENGTHS = {"rectangular": 37, "odd": 50, "xl": 64}


@pytest.fixture(scope="module", params=CONFIGS)
def case(request):
    """A configuration, diffusers' model, canonical tensors, and inputs."""
    config = CONFIGS[request.param]
    model, tensors = transformer(config)
    return config, model, tensors, network_inputs(config, LENGTHS[request.param])


@pytest.fixture(params=["cpu", "gpu"])
def kind(request, monkeypatch):
    """Both forms of attention; the one that a GPU takes runs on a CPU, too."""
    monkeypatch.setattr(device, "is_gpu", lambda: request.param == "gpu")
    monkeypatch.setattr(grouped_attention, "BLOCK_QUERIES", 8)


def reference_output(model, given):
    """diffusers' output example by example, each condition cut to its valid rows."""
    parts = []
    for i, valid in enumerate(given["valid"]):
        row = {key: torch.from_numpy(value[i : i + 1]) for key, value in given.items()}
        with torch.no_grad():
            parts.append(model(row["x"], row["t"], row["r"], row["condition"][:, valid], row["context"])[0].numpy())
    return np.concatenate(parts)


def our_output(config, tensors, given, dtype=mx.float32, keys=False):
    weights = acestep_weights.transformer_weights(tensors, config, dtype)
    x, t, r, context, condition, valid = (mx.array(given[k]) for k in ("x", "t", "r", "context", "condition", "valid"))
    made = acestep.prepare(condition, valid, context, weights, None, config)
    if keys:
        made = acestep.prepare_keys(made, len(x), weights, None, config)
    return np.array(acestep.predict(x, t, made, weights, None, config, r).astype(mx.float32))


def assert_agrees(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= RELATIVE * np.abs(expected).max()


def test_the_transformer_agrees_with_the_reference(case, kind):
    config, model, tensors, given = case
    assert_agrees(our_output(config, tensors, given), reference_output(model, given))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 22])
def test_lengths_that_fill_no_patch_are_padded_and_cut(case, length):
    config, model, tensors, _ = case
    given = network_inputs(config, length)
    assert_agrees(our_output(config, tensors, given), reference_output(model, given))


def test_keys_computed_once_give_the_same_velocity(case):
    config, _, tensors, given = case
    np.testing.assert_array_equal(our_output(config, tensors, given, keys=True), our_output(config, tensors, given))


def test_without_a_second_time_it_is_the_first(case):
    config, model, tensors, given = case
    weights = acestep_weights.transformer_weights(tensors, config, mx.float32)
    x, t, context, condition = (mx.array(given[k]) for k in ("x", "t", "context", "condition"))
    made = acestep.prepare(condition, None, context, weights, None, config)
    found = np.array(acestep.predict(x, t, made, weights, None, config))
    everything = {**given, "r": given["t"], "valid": np.ones_like(given["valid"])}
    assert_agrees(found, reference_output(model, everything))


def test_rows_of_padding_reach_no_output(case):
    config, _, tensors, given = case
    padding = ~given["valid"]
    assert padding.any()
    outputs = []
    for value in (0.0, 1e4, np.nan):
        condition = given["condition"].copy()
        condition[padding] = value
        outputs.append(our_output(config, tensors, {**given, "condition": condition}))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])


@pytest.mark.parametrize("null_rows", [1, 11])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "whole"])
def test_both_passes_of_guidance_fit_one_batch(case, padded, null_rows):
    """The original repeats the null condition over the rows of the other one, which changes nothing."""
    config, model, tensors, given = case
    null = random_tensor("null_condition_emb", (1, 1, config.encoder.hidden))
    weights = acestep_weights.transformer_weights(tensors, config, mx.float32)
    given = given if padded else {**given, "valid": np.ones_like(given["valid"])}
    valid = mx.array(given["valid"]) if padded else None
    made = acestep.prepare(mx.array(given["condition"]), valid, mx.array(given["context"]), weights, None, config)
    made = acestep.prepare_keys(made, 2, weights, None, config)
    made = acestep.with_null_condition(made, mx.array(null), weights, None, config)
    x, t, r = (mx.concatenate([mx.array(given[k])] * 2) for k in ("x", "t", "r"))
    found = np.array(acestep.predict(x, t, made, weights, None, config, r))
    repeated = np.broadcast_to(null, (2, null_rows, null.shape[-1])).copy()
    nothing = {**given, "condition": repeated, "valid": np.ones((2, null_rows), bool)}
    assert_agrees(found[:2], reference_output(model, given))
    assert_agrees(found[2:], reference_output(model, nothing))


def test_layouts_are_inverted_exactly(case):
    config, _, tensors, _ = case
    for name, value in tensors.items():
        name = name.removeprefix("decoder.")
        stored = acestep_weights.stored(name, value, config)
        np.testing.assert_array_equal(acestep_weights.canonical(name, stored, config), value, err_msg=name)


@pytest.mark.parametrize(("dtype", "share"), [(mx.float16, 0.02), (mx.bfloat16, 0.1)], ids=str)
def test_half_precision_stays_near_float32(case, dtype, share):
    """8 and 11 bits through two or three blocks."""
    config, _, tensors, given = case
    expected, found = our_output(config, tensors, given), our_output(config, tensors, given, dtype)
    assert np.abs(found - expected).mean() < share * np.abs(expected).mean()


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_an_injected_adapter_equals_its_fused_form(case, dora):
    config, _, tensors, given = case
    weights = acestep_weights.transformer_weights(tensors, config, mx.float32)
    linear = {k.removesuffix(".weight"): v.shape for k, v in weights.items() if k.endswith("_proj.weight")}
    model = AdaptedWeights(linear, mx.float32)
    spec = LoraSpec(3, 6.0, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj"), dora=dora)
    state = {k: np.abs(random_tensor(k, shape)) for k, shape in state_shapes(spec, linear).items()}
    model.inject_adapter(spec, state)
    assert len(model.names) == 8 * len(config.layer_types)  # self and cross attention of each block
    fused = dict(weights)
    for name in model.names:
        a, b = (model.factors[key] for key in state_keys(name))
        key, magnitude = f"{name}.weight", model.factors.get(magnitude_key(name))
        fused[key] = lora.fused_weight(weights[key], a, b, spec.scale, magnitude, conv1d=False)
    condition, valid, context, x, t = (mx.array(given[key]) for key in ("condition", "valid", "context", "x", "t"))

    def run(weights, adapter):
        made = acestep.prepare(condition, valid, context, weights, adapter, config)
        return np.array(acestep.predict(x, t, made, weights, adapter, config))

    base, expected = run(weights, None), run(fused, None)
    assert np.abs(expected - base).max() > 0.1 * np.abs(base).max()
    assert_agrees(run(weights, model.active_adapter()), expected)
