"""Products of few rows with large matrices, as in a decode step."""

from __future__ import annotations

import mlx.core as mx

from musiclora.backends.mlx import device

SPLIT_MAX_ROWS = 16  # products of more rows are not split
_PARTS = 16
_HEAD_MIN_ROWS = 200  # of the output head in one part


def split_linear(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """Compute x @ weight + bias: x [N, in], weight [in, out].

    On the CPU build the BLAS first copies the whole matrix into its own order, which for one row takes longer than
    the product. OpenBLAS does not copy small matrices. So the weight is viewed as parts of its rows at no cost, and
    their products are summed (512 x 2048, one row: 147 us instead of 271; with AVX-512 121 instead of 388).
    """
    rows, inputs = x.shape
    if device.is_gpu() or rows > SPLIT_MAX_ROWS or inputs % _PARTS:
        return mx.addmm(bias, x, weight)
    parts = x.reshape(rows, _PARTS, -1).swapaxes(0, 1) @ weight.reshape(_PARTS, -1, weight.shape[1])
    return parts.sum(axis=0) + bias


def split_head(x: mx.array, embedding: mx.array) -> mx.array:
    """Compute x @ embedding': x [N, d], embedding [V, d]; split like split_linear, over the vocabulary."""
    rows, vocabulary = x.shape[0], embedding.shape[0]
    parts = next((k for k in range(vocabulary // _HEAD_MIN_ROWS, 1, -1) if vocabulary % k == 0), 1)
    if device.is_gpu() or rows > SPLIT_MAX_ROWS or parts == 1:
        return x @ embedding.T
    blocks = embedding.reshape(parts, -1, embedding.shape[1])
    return (x[None] @ blocks.swapaxes(1, 2)).swapaxes(0, 1).reshape(rows, vocabulary)
