"""Products with weights that stay quantised in memory (MLX's affine form), differentiable in their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import mlx.core as mx

from musiclora.backends.mlx import device
from musiclora.convert.models.quantise import Packed

Weights = Mapping[str, mx.array]

KERNEL_MAX_ROWS = 4  # beyond, de-quantising and the BLAS beat MLX's own kernel on the CPU build


class Parts(NamedTuple):
    """A quantised matrix [out, width] in a dictionary of weights: words, scales, biases [out, groups]."""

    values: mx.array
    scales: mx.array
    biases: mx.array

    def settings(self, width: int) -> dict[str, Any]:
        """Read group size and bits off the shapes."""
        return {"group_size": width // self.scales.shape[-1], "bits": self.values.shape[-1] * 32 // width}


def load(name: str, packed: Packed, dtype: mx.Dtype) -> dict[str, mx.array]:
    """Copy one matrix to the device under the keys that `find` reads; name is that of its weight."""
    stem = name.removesuffix(".weight")
    floats = {f"{stem}.scales": packed.scales, f"{stem}.biases": packed.biases}
    return {name: mx.array(packed.values)} | {k: mx.array(v.astype("float32")).astype(dtype) for k, v in floats.items()}


def find(weights: Weights, stem: str) -> Parts | None:
    """Return the quantised matrix of a module; None where its weight is a float array."""
    if f"{stem}.scales" not in weights:
        return None
    return Parts(weights[f"{stem}.weight"], weights[f"{stem}.scales"], weights[f"{stem}.biases"])


def dequantised(parts: Parts, width: int) -> mx.array:
    """De-quantise the matrix [out, width] to the dtype of its scales."""
    return mx.dequantize(*parts, **parts.settings(width))


def rows(parts: Parts, index: mx.array | slice, width: int) -> mx.array:
    """De-quantise some rows of the matrix, [..., width] for an index [...]."""
    # MLX de-quantises two axes or more, and a single index leaves one.
    return dequantised(Parts(*(part[index][None] for part in parts)), width)[0]


def packed_product(x: mx.array, parts: Parts) -> mx.array:
    """Multiply x [N, width] by the transposed matrix, [N, out]."""
    if device.is_gpu() or x.shape[0] <= KERNEL_MAX_ROWS:
        return mx.quantized_matmul(x, *parts, transpose=True, **parts.settings(x.shape[-1]))
    return cast(mx.array, _dequantised_product(x, *parts))


@mx.custom_function
def _dequantised_product(x: mx.array, values: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
    return x @ dequantised(Parts(values, scales, biases), x.shape[-1]).T


@_dequantised_product.vjp
def _dequantised_product_vjp(primals: Any, cotangent: Any, output: Any) -> Any:
    # De-quantise again: the product's own gradient would keep a float copy of every matrix.
    x, *parts = primals
    return [cotangent @ dequantised(Parts(*parts), x.shape[-1]), *(mx.zeros_like(part) for part in parts)]
