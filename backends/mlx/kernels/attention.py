"""Causal attention for training and scoring: MLX's fused kernel on GPUs, query blocks on the CPU build."""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx

from musiclora.backends.mlx import device
from musiclora.backends.mlx.kernels import ops

BLOCK_QUERIES = 128  # per block on the CPU; a block reads only keys up to its own end
# Rows up to this length keep their probabilities for the backward pass; longer ones recompute them.
KEEP_MAX_TOKENS = 2048


def segment_mask(segments: mx.array) -> mx.array:
    """Build the mask bool [B, 1, L, L]: a token sees itself and earlier tokens of its own segment."""
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    return (same & mx.tri(length, length, dtype=mx.bool_))[:, None]


def attend_causally(
    q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None, scale: float | None = None
) -> mx.array:
    """Compute softmax of scale q k' over the past, times v.

    Args:
        q: queries [B, H, L, D]; k and v have the same shape.
        k: keys.
        v: values.
        mask: bool [B, 1, L, L], the causal part included; None for plain causal attention.
        scale: factor of the products of queries and keys; 1 / sqrt(head size) without.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if device.is_gpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal" if mask is None else mask)
    return cast(list[mx.array], _attend_in_blocks(q * scale, k, v, *([] if mask is None else [mask])))[0]


def _block_probabilities(q: mx.array, k: mx.array, start: int, mask: mx.array | None) -> mx.array:
    """Compute probabilities [B, H, n, start + n] of n queries from start over the keys up to their end."""
    stop = start + q.shape[2]
    scores = q @ mx.swapaxes(k[:, :, :stop], -1, -2)
    seen = mx.tri(stop - start, stop, start, dtype=mx.bool_) if mask is None else mask[:, :, start:stop, :stop]
    scores = scores + mx.where(seen, 0.0, -1e30).astype(scores.dtype)
    shares = ops.exp_shifted(scores.astype(mx.float32), scores.max(axis=-1, keepdims=True).astype(mx.float32))
    return (shares / shares.sum(axis=-1, keepdims=True)).astype(q.dtype)


def _block_starts(length: int) -> range:
    return range(0, length, BLOCK_QUERIES)


@mx.custom_function
def _attend_in_blocks(q: mx.array, k: mx.array, v: mx.array, *mask: mx.array) -> list[mx.array]:
    """Compute [B, H, L, D] of scaled queries; rows up to KEEP_MAX_TOKENS also return their probabilities."""
    outputs, kept = [], []
    for start in _block_starts(q.shape[2]):
        shares = _block_probabilities(q[:, :, start : start + BLOCK_QUERIES], k, start, *(mask or [None]))
        outputs.append(shares @ v[:, :, : shares.shape[-1]])
        kept.append(shares)
    return [mx.concatenate(outputs, axis=2), *(kept if q.shape[2] <= KEEP_MAX_TOKENS else [])]


@_attend_in_blocks.vjp
def _(primals: Any, cotangents: Any, outputs: Any) -> Any:
    q, k, v, *mask = primals
    grad, kept = cotangents[0], outputs[1:]
    dq: list[mx.array] = []
    dk: mx.array | None = None
    dv: mx.array | None = None
    for index, start in enumerate(_block_starts(q.shape[2])):
        rows = slice(start, start + BLOCK_QUERIES)
        block, out = grad[:, :, rows], outputs[0][:, :, rows]
        shares = kept[index] if kept else _block_probabilities(q[:, :, rows], k, start, *(mask or [None]))
        seen = slice(0, shares.shape[-1])
        # The mean of the gradient under the probabilities is the product with the output (Dao et al. 2022, eq. 4).
        mean = (block * out).sum(axis=-1, keepdims=True)
        scores = shares * (block @ mx.swapaxes(v[:, :, seen], -1, -2) - mean)
        dq.append(scores @ k[:, :, seen])
        dk = _add_longer(dk, mx.swapaxes(scores, -1, -2) @ q[:, :, rows])
        dv = _add_longer(dv, mx.swapaxes(shares, -1, -2) @ block)
    return [mx.concatenate(dq, axis=2), dk, dv, *(mx.zeros_like(m) for m in mask)]


def _add_longer(total: mx.array | None, part: mx.array) -> mx.array:
    """Add part, which has more rows, to total."""
    if total is None:
        return part
    length = total.shape[2]
    return mx.concatenate([total + part[:, :, :length], part[:, :, length:]], axis=2)
