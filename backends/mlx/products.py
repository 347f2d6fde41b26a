"""Products of few rows with large matrices, as generation makes them for every token."""

from __future__ import annotations

import mlx.core as mx

from musiclora.backends.mlx import device

FEW = 16  # rows up to which a product is split
_PARTS = 16
_HEAD_ROWS = 200  # least rows of the output head in one part


def linear(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """X @ weight + bias: x [N, in], weight [in, out].

    On the CPU build the BLAS copies the whole matrix into its own order first, which for one row takes longer than
    the product. OpenBLAS does not do so for small matrices; so the weight is viewed as parts of its rows, which
    costs nothing, and their products are summed (512 x 2048, one row: 147 us for 271, with AVX-512 121 for 388).
    """
    rows, inputs = x.shape
    if device.is_gpu() or rows > FEW or inputs % _PARTS:
        return mx.addmm(bias, x, weight)
    parts = x.reshape(rows, _PARTS, -1).swapaxes(0, 1) @ weight.reshape(_PARTS, -1, weight.shape[1])
    return parts.sum(axis=0) + bias


def head(x: mx.array, embedding: mx.array) -> mx.array:
    """X @ embedding': x [N, d], embedding [V, d]; split like linear, over the vocabulary."""
    rows, vocabulary = x.shape[0], embedding.shape[0]
    parts = next((k for k in range(vocabulary // _HEAD_ROWS, 1, -1) if vocabulary % k == 0), 1)
    if device.is_gpu() or rows > FEW or parts == 1:
        return x @ embedding.T
    blocks = embedding.reshape(parts, -1, embedding.shape[1])
    return (x[None] @ blocks.swapaxes(1, 2)).swapaxes(0, 1).reshape(rows, vocabulary)
