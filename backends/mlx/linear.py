"""Linear layers of weights as torch lays them, [out, in]: float or quantised, with LoRA or DoRA where adapted."""

from __future__ import annotations

import mlx.core as mx

from musiclora.backends.mlx import dora, lora
from musiclora.backends.mlx.decoder import ActiveAdapter
from musiclora.backends.mlx.kernels import quantised
from musiclora.backends.mlx.kernels.quantised import Parts, Weights
from musiclora.convert.adapters.lora import magnitude_key, state_keys


def linear(x: mx.array, name: str, weights: Weights, adapter: ActiveAdapter | None) -> mx.array:
    """Apply one linear layer, its bias and its adapter where it has them.

    Args:
        x: [rows, in].
        name: path of the layer, the stem of its keys.
        weights: of the model.
        adapter: LoRA or DoRA, or None.

    Returns:
        [rows, out] in the dtype of the weights.
    """
    parts, weight, bias = quantised.find(weights, name), weights[f"{name}.weight"], weights.get(f"{name}.bias")
    key_a, key_b = state_keys(name)
    if adapter is None or key_a not in adapter.factors:
        return _add_bias(_product(x, weight, parts), bias)
    a, b = adapter.factors[key_a], adapter.factors[key_b]
    mask = adapter.dropout.mask(name, x.shape) if adapter.dropout else None
    magnitude = adapter.factors.get(magnitude_key(name))
    if magnitude is None:
        return lora.adapted(x, _add_bias(_product(x, weight, parts), bias), a, b, adapter.scale, mask)
    whole = quantised.dequantised(parts, a.shape[1]) if parts else weight
    gain = magnitude / dora.row_lengths(whole, a, b, adapter.scale, conv1d=False)
    return _add_bias(dora.adapted(x, lambda v: _product(v, weight, parts), (a, b), gain, adapter.scale, mask), bias)


def _product(x: mx.array, weight: mx.array, parts: Parts | None) -> mx.array:
    return quantised.packed_product(x, parts) if parts else x @ weight.T


def _add_bias(y: mx.array, bias: mx.array | None) -> mx.array:
    return y if bias is None else y + bias
