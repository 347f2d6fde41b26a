"""LoRA on MLX arrays: the adapted linear layer, its fused form, and dropout masks."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from musiclora.backends.mlx import dora
from musiclora.backends.mlx.kernels import quantised
from musiclora.backends.mlx.kernels.quantised import Weights
from musiclora.convert.adapters.lora import magnitude_key, state_keys


@dataclass(frozen=True)
class DropoutPool:
    """LoRA dropout masks as windows into one array of random multipliers, 0 or 1 / (1 - p).

    A fresh mask for every module and step would cost more than the products it masks on the CPU build. The pool is
    drawn once for a seed; the mask of a (step, micro-batch, module) is the window that begins at a hash of these, so
    that within one mask all elements are independent.
    """

    values: mx.array  # float32 [SLACK + largest mask]

    SLACK = 1 << 20

    @classmethod
    def draw(cls, seed: int, probability: float, largest: int) -> DropoutPool:
        """Draw a pool for masks of up to largest elements; a larger pool begins with the values of a smaller one."""
        size, parts = 1 << 20, []
        for index in range(-(-(cls.SLACK + largest) // size)):
            key = mx.random.key((seed * 1_000_003 + index) % 2**63)
            parts.append(mx.random.bernoulli(1.0 - probability, (size,), key=key).astype(mx.float32))
        values = mx.concatenate(parts) / (1.0 - probability)
        mx.eval(values)
        return cls(values)

    @classmethod
    def offsets(cls, names: Iterable[str], step: int, micro_batch: int) -> mx.array:
        """Hash the step, micro-batch and module names to offsets in the pool, int32 [modules]."""
        return mx.array([zlib.crc32(f"{step}/{micro_batch}/{n}".encode()) % cls.SLACK for n in names], mx.int32)

    def mask(self, offset: mx.array, shape: tuple[int, ...]) -> mx.array:
        """Return the window of this shape at offset, an int32 scalar that may be traced."""
        size = int(np.prod(shape))
        return mx.slice(self.values, offset.reshape(1), (0,), (size,)).reshape(shape)


def adapted(x: mx.array, y: mx.array, a: mx.array, b: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    """Add scale * drop(x) A' B' to y in float32, cast to the dtype of y.

    Args:
        x: input of the layer [N, in].
        y: what the base layer makes of it [N, out].
        a: [rank, in].
        b: [out, rank].
        scale: of the update.
        mask: multipliers [N, in], or None.
    """
    wide = x.astype(mx.float32)
    low = (wide if mask is None else wide * mask) @ a.T
    return mx.addmm(y.astype(mx.float32), low, (b * scale).T).astype(y.dtype)


def fused_weight(
    weight: mx.array, a: mx.array, b: mx.array, scale: float, magnitude: mx.array | None = None, *, conv1d: bool = True
) -> mx.array:
    """Add scale * B A (transposed where conv1d) to weight, summed in float32 and cast once.

    With magnitudes [out] the rows of the sum are scaled to them (DoRA).
    """
    left, right = (a.T, (b * scale).T) if conv1d else (b * scale, a)
    moved = mx.addmm(weight.astype(mx.float32), left, right)
    return (moved if magnitude is None else dora.scale_rows(moved, magnitude, conv1d=conv1d)).astype(weight.dtype)


def fused(weights: Weights, adapter: Weights, names: Iterable[str], scale: float) -> dict[str, mx.array]:
    """Return all weights with the adapter added; unaffected arrays are shared."""
    merged = dict(weights)
    for name in names:
        key_a, key_b = state_keys(name)
        weight = merged[f"{name}.weight"]
        if parts := quantised.find(weights, name):
            weight = quantised.dequantised(parts, adapter[key_a].shape[1]).T
            del merged[f"{name}.scales"], merged[f"{name}.biases"]
        magnitude = adapter.get(magnitude_key(name))
        merged[f"{name}.weight"] = fused_weight(weight, adapter[key_a], adapter[key_b], scale, magnitude)
    mx.eval(merged)
    return merged


def beside_quantised(weights: Weights, adapter: Weights, names: Iterable[str], scale: float) -> dict[str, mx.array]:
    """Return what replaces or joins quantised matrices in generation: A, and B with the scale in it.

    DoRA's gains are rows' factors, so that they go into the scales and biases of the quantised rows and into B.
    """
    merged: dict[str, mx.array] = {}
    for name in names:
        key_a, key_b = state_keys(name)
        a, b = adapter[key_a], adapter[key_b]
        merged |= {key_a: a, key_b: b * scale}
        parts, magnitude = quantised.find(weights, name), adapter.get(magnitude_key(name))
        if parts is None or magnitude is None:
            continue
        whole = quantised.dequantised(parts, a.shape[1])
        gain = (magnitude / dora.row_lengths(whole, a, b, scale, conv1d=False))[:, None]
        merged[key_b] = gain * merged[key_b]
        for key, value in ((f"{name}.scales", parts.scales), (f"{name}.biases", parts.biases)):
            merged[key] = (gain * value.astype(mx.float32)).astype(value.dtype)
        mx.eval(merged)
    return merged
