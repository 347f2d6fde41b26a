"""Attention of the diffusion transformer: bidirectional, or causal where the model is."""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx

from musiclora.backends.mlx import device
from musiclora.backends.mlx.kernels import attention, ops

BLOCK_FRAMES = 256  # queries per block on the CPU


def attend_frames(q: mx.array, k: mx.array, v: mx.array, causal: bool) -> mx.array:
    """Compute softmax of q k' / sqrt(head size), times v.

    Args:
        q: queries [B, H, N, D]; k and v have the same shape.
        k: keys.
        v: values.
        causal: a frame sees itself and what is before it only.
    """
    if causal:
        return attention.attend_causally(q, k, v, None)
    scale = q.shape[-1] ** -0.5
    if device.is_gpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)
    return cast(list[mx.array], _attend_in_blocks(q * scale, k, v))[0]


def _attention_weights(q: mx.array, k: mx.array) -> mx.array:
    """Compute probabilities [B, H, n, N] of n queries over all keys."""
    scores = (q @ mx.swapaxes(k, -1, -2)).astype(mx.float32)
    shares = ops.exp_shifted(scores, scores.max(axis=-1, keepdims=True))
    return (shares / shares.sum(axis=-1, keepdims=True)).astype(q.dtype)


@mx.custom_function
def _attend_in_blocks(q: mx.array, k: mx.array, v: mx.array) -> list[mx.array]:
    """Compute [B, H, N, D] of scaled queries in blocks; the scores of one block exist at a time."""
    parts = [_attention_weights(q[:, :, at : at + BLOCK_FRAMES], k) @ v for at in range(0, q.shape[2], BLOCK_FRAMES)]
    return [parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)]


@_attend_in_blocks.vjp
def _(primals: Any, cotangents: Any, outputs: Any) -> Any:
    # Probabilities are recomputed: that costs a twentieth of a block's products and keeps nothing of N x N.
    q, k, v = primals
    dq: list[mx.array] = []
    dk = dv = None
    for at in range(0, q.shape[2], BLOCK_FRAMES):
        rows = slice(at, at + BLOCK_FRAMES)
        grad, shares = cotangents[0][:, :, rows], _attention_weights(q[:, :, rows], k)
        # The mean of the gradient under the probabilities is the product with the output (Dao et al. 2022, eq. 4).
        mean = (grad * outputs[0][:, :, rows]).sum(axis=-1, keepdims=True)
        scores = shares * (grad @ mx.swapaxes(v, -1, -2) - mean)
        dq.append(scores @ k)
        for_k, for_v = mx.swapaxes(scores, -1, -2) @ q[:, :, rows], mx.swapaxes(shares, -1, -2) @ grad
        dk, dv = (for_k, for_v) if dk is None else (dk + for_k, dv + for_v)
    return [mx.concatenate(dq, axis=2), dk, dv]
