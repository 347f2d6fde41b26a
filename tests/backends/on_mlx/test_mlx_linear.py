"""Linear layers with torch's layout: bias, LoRA, DoRA and dropout, over float and quantised weights."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import tolerance

from musiclora.backends.mlx.decoder import ActiveAdapter, Dropout
from musiclora.backends.mlx.kernels import quantised
from musiclora.backends.mlx.linear import linear
from musiclora.backends.mlx.lora import DropoutPool
from musiclora.convert.adapters.lora import magnitude_key, state_keys
from musiclora.convert.models.quantise import dequantise_matrix, quantise_matrix

ROWS, INPUTS, OUT, RANK, SCALE = 9, 64, 24, 3, 1.5


@pytest.fixture(params=["float", "4 bits"])
def layer(request, rng):
    """Arrays of one layer and its matrix as numpy has it."""
    matrix = rng.standard_normal((OUT, INPUTS)).astype(np.float32)
    bias = rng.standard_normal(OUT).astype(np.float32)
    if request.param == "float":
        return {"m.weight": mx.array(matrix), "m.bias": mx.array(bias)}, matrix, bias
    packed = quantise_matrix(matrix, 4, 32)
    return quantised.load("m.weight", packed, mx.float32) | {"m.bias": mx.array(bias)}, dequantise_matrix(packed), bias


def adapter_arrays(rng, dora):
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((RANK, INPUTS), (OUT, RANK)))
    found = dict(zip(state_keys("m"), (a, b), strict=True))
    return found | ({magnitude_key("m"): rng.uniform(1, 2, OUT).astype(np.float32)} if dora else {})


def effective_matrix(matrix, factors):
    """The matrix that stands for base and adapter together, float64."""
    a, b = (factors[key].astype(np.float64) for key in state_keys("m"))
    moved = matrix + SCALE * b @ a
    if magnitude_key("m") in factors:
        moved *= factors[magnitude_key("m")][:, None] / np.linalg.norm(moved, axis=1, keepdims=True)
    return moved


def active(factors, dropout=None):
    return ActiveAdapter({key: mx.array(value) for key, value in factors.items()}, SCALE, dropout)


@pytest.mark.parametrize("rows", [1, ROWS], ids=["one row", "many rows"])
@pytest.mark.parametrize("kind", ["base", "LoRA", "DoRA"])
def test_a_layer_and_its_gradient_equal_the_matrix_of_base_and_adapter(layer, rng, kind, rows):
    weights, matrix, bias = layer
    factors = {} if kind == "base" else adapter_arrays(rng, kind == "DoRA")
    whole = effective_matrix(matrix, factors) if factors else matrix.astype(np.float64)
    x, g = (rng.standard_normal((rows, n)).astype(np.float32) for n in (INPUTS, OUT))
    found = linear(mx.array(x), "m", weights, active(factors))
    grad = mx.grad(lambda x: (linear(x, "m", weights, active(factors)) * mx.array(g)).sum())(mx.array(x))
    # Base and update are added apart, so that their sizes count apart; scale, gain and bias are roundings more.
    parts = np.abs(matrix) + (
        SCALE * np.abs(factors[state_keys("m")[1]]) @ np.abs(factors[state_keys("m")[0]]) if factors else 0
    )
    for value, expected, terms, size in (
        (found, x @ whole.T + bias, INPUTS, np.abs(x) @ parts.T + np.abs(bias)),
        (grad, g @ whole, OUT, np.abs(g) @ parts),
    ):
        tolerance.assert_near(value, expected, tolerance.rounding(terms + RANK + 8, size))


def test_dropout_masks_the_inputs_of_the_update_only(layer, rng):
    weights, matrix, bias = layer
    factors, x = adapter_arrays(rng, dora=False), rng.standard_normal((ROWS, INPUTS)).astype(np.float32)
    pool = DropoutPool.draw(3, 0.5, ROWS * INPUTS)
    offsets = mx.array([7], mx.int32)
    mask = np.array(pool.mask(offsets[0], (ROWS, INPUTS)))
    assert set(np.unique(mask)) == {0.0, 2.0}
    a, b = (factors[key] for key in state_keys("m"))
    expected = x @ matrix.T + bias + SCALE * (x * mask) @ a.T @ b.T
    found = linear(mx.array(x), "m", weights, active(factors, Dropout(pool, ("m",), offsets)))
    size = np.abs(x) @ np.abs(matrix).T + 2 * SCALE * np.abs(x) @ np.abs(a).T @ np.abs(b).T + np.abs(bias)
    tolerance.assert_near(found, expected, tolerance.rounding(INPUTS + RANK + 8, size))


def test_an_adapter_of_other_layers_changes_nothing(layer, rng):
    weights, _, _ = layer
    x = mx.array(rng.standard_normal((ROWS, INPUTS)).astype(np.float32))
    other = {key.replace("m.", "n.", 1): value for key, value in adapter_arrays(rng, dora=False).items()}
    np.testing.assert_array_equal(linear(x, "m", weights, active(other)), linear(x, "m", weights, None))
