"""Products with weights that stay quantised in memory (MLX's affine form), differentiable in what they are fed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import mlx.core as mx

from musiclora.backends.mlx import device
from musiclora.convert.models.quantise import Packed

Weights = Mapping[str, mx.array]

FEW = 4  # rows up to which MLX's own kernel beats de-quantising and the BLAS on the CPU build


class Parts(NamedTuple):
    """A quantised matrix [out, width] as it lies in a dictionary of weights: words, scales, biases [out, groups]."""

    values: mx.array
    scales: mx.array
    biases: mx.array

    def settings(self, width: int) -> dict[str, Any]:
        """Group size and bits, read off the shapes."""
        return {"group_size": width // self.scales.shape[-1], "bits": self.values.shape[-1] * 32 // width}


def load(name: str, packed: Packed, dtype: mx.Dtype) -> dict[str, mx.array]:
    """The arrays of one matrix under the keys that `find` looks for; name is that of its weight."""
    stem = name.removesuffix(".weight")
    floats = {f"{stem}.scales": packed.scales, f"{stem}.biases": packed.biases}
    return {name: mx.array(packed.values)} | {k: mx.array(v.astype("float32")).astype(dtype) for k, v in floats.items()}


def find(weights: Weights, stem: str) -> Parts | None:
    """The quantised matrix of a module; None where its weight is a float array."""
    if f"{stem}.scales" not in weights:
        return None
    return Parts(weights[f"{stem}.weight"], weights[f"{stem}.scales"], weights[f"{stem}.biases"])


def dense(parts: Parts, width: int) -> mx.array:
    """The matrix [out, width] in the dtype of its scales."""
    return mx.dequantize(*parts, **parts.settings(width))


def rows(parts: Parts, index: mx.array | slice, width: int) -> mx.array:
    """Rows of the matrix, [..., width] for an index [...]; only these are de-quantised."""
    # MLX de-quantises two axes or more, and a single index leaves one.
    return dense(Parts(*(part[index][None] for part in parts)), width)[0]


def product(x: mx.array, parts: Parts) -> mx.array:
    """X [N, width] times the transposed matrix, [N, out]."""
    if device.is_gpu() or x.shape[0] <= FEW:
        return mx.quantized_matmul(x, *parts, transpose=True, **parts.settings(x.shape[-1]))
    return cast(mx.array, _wide(x, *parts))


@mx.custom_function
def _wide(x: mx.array, values: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
    return x @ dense(Parts(values, scales, biases), x.shape[-1]).T


@_wide.vjp
def _wide_vjp(primals: Any, cotangent: Any, output: Any) -> Any:
    # De-quantised again: what the product's own gradient would keep is a float copy of every matrix.
    x, *parts = primals
    return [cotangent @ dense(Parts(*parts), x.shape[-1]), *(mx.zeros_like(part) for part in parts)]
