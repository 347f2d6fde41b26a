"""Causal attention for training and scoring: MLX's fused kernel on GPUs, query blocks on the CPU build."""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx

from musiclora.backends.mlx import device, ops

BLOCK = 128  # queries at a time on the CPU; a block looks only at keys up to its own end
KEPT = 2048  # rows up to this length keep their probabilities for the backward pass; longer ones compute them again


def segment_mask(segments: mx.array) -> mx.array:
    """Bool [B, 1, L, L]: a token sees earlier tokens of its own segment and itself."""
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    return (same & mx.tri(length, length, dtype=mx.bool_))[:, None]


def attend(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    """Softmax of q k' / sqrt(head size) over the past, times v.

    Args:
        q: queries [B, H, L, D]; k and v have the same shape.
        k: keys.
        v: values.
        mask: bool [B, 1, L, L], the causal part included; None for plain causal attention.
    """
    scale = q.shape[-1] ** -0.5
    if device.is_gpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal" if mask is None else mask)
    return cast(list[mx.array], _blocks(q * scale, k, v, *([] if mask is None else [mask])))[0]


def _probabilities(q: mx.array, k: mx.array, start: int, mask: mx.array | None) -> mx.array:
    """Probabilities [B, H, n, start + n] of the n queries at start over keys up to their end."""
    stop = start + q.shape[2]
    scores = q @ mx.swapaxes(k[:, :, :stop], -1, -2)
    seen = mx.tri(stop - start, stop, start, dtype=mx.bool_) if mask is None else mask[:, :, start:stop, :stop]
    scores = scores + mx.where(seen, 0.0, -1e30).astype(scores.dtype)
    shares = ops.exp_shifted(scores.astype(mx.float32), scores.max(axis=-1, keepdims=True).astype(mx.float32))
    return (shares / shares.sum(axis=-1, keepdims=True)).astype(q.dtype)


def _starts(length: int) -> range:
    return range(0, length, BLOCK)


@mx.custom_function
def _blocks(q: mx.array, k: mx.array, v: mx.array, *mask: mx.array) -> list[mx.array]:
    """Output [B, H, L, D] of scaled queries, then (for rows up to KEPT) each block's probabilities."""
    outputs, kept = [], []
    for start in _starts(q.shape[2]):
        shares = _probabilities(q[:, :, start : start + BLOCK], k, start, *(mask or [None]))
        outputs.append(shares @ v[:, :, : shares.shape[-1]])
        kept.append(shares)
    return [mx.concatenate(outputs, axis=2), *(kept if q.shape[2] <= KEPT else [])]


@_blocks.vjp
def _(primals: Any, cotangents: Any, outputs: Any) -> Any:
    q, k, v, *mask = primals
    grad, kept = cotangents[0], outputs[1:]
    dq: list[mx.array] = []
    dk: mx.array | None = None
    dv: mx.array | None = None
    for index, start in enumerate(_starts(q.shape[2])):
        rows = slice(start, start + BLOCK)
        block, out = grad[:, :, rows], outputs[0][:, :, rows]
        shares = kept[index] if kept else _probabilities(q[:, :, rows], k, start, *(mask or [None]))
        seen = slice(0, shares.shape[-1])
        # The mean of the gradient under the probabilities is the product with the output (Dao et al. 2022, eq. 4).
        mean = (block * out).sum(axis=-1, keepdims=True)
        scores = shares * (block @ mx.swapaxes(v[:, :, seen], -1, -2) - mean)
        dq.append(scores @ k[:, :, seen])
        dk = _grown(dk, mx.swapaxes(scores, -1, -2) @ q[:, :, rows])
        dv = _grown(dv, mx.swapaxes(shares, -1, -2) @ block)
    return [mx.concatenate(dq, axis=2), dk, dv, *(mx.zeros_like(m) for m in mask)]


def _grown(total: mx.array | None, part: mx.array) -> mx.array:
    """The sum total + part, where part has more rows than total."""
    if total is None:
        return part
    length = total.shape[2]
    return mx.concatenate([total + part[:, :, :length], part[:, :, length:]], axis=2)
