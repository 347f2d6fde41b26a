"""Attention of the diffusion transformer: every frame sees every frame, or its past where the model is causal."""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx

from musiclora.backends.mlx import attention, device, ops

BLOCK = 256  # queries at a time on the CPU


def attend(q: mx.array, k: mx.array, v: mx.array, causal: bool) -> mx.array:
    """Softmax of q k' / sqrt(head size), times v.

    Args:
        q: queries [B, H, N, D]; k and v have the same shape.
        k: keys.
        v: values.
        causal: a frame sees itself and what is before it only.
    """
    if causal:
        return attention.attend(q, k, v, None)
    scale = q.shape[-1] ** -0.5
    if device.is_gpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)
    return cast(list[mx.array], _blocks(q * scale, k, v))[0]


def _shares(q: mx.array, k: mx.array) -> mx.array:
    """Probabilities [B, H, n, N] of n queries over all keys."""
    scores = (q @ mx.swapaxes(k, -1, -2)).astype(mx.float32)
    shares = ops.exp_shifted(scores, scores.max(axis=-1, keepdims=True))
    return (shares / shares.sum(axis=-1, keepdims=True)).astype(q.dtype)


@mx.custom_function
def _blocks(q: mx.array, k: mx.array, v: mx.array) -> list[mx.array]:
    """Output [B, H, N, D] of scaled queries, in blocks, so that the scores of one block exist at a time."""
    parts = [_shares(q[:, :, at : at + BLOCK], k) @ v for at in range(0, q.shape[2], BLOCK)]
    return [parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)]


@_blocks.vjp
def _(primals: Any, cotangents: Any, outputs: Any) -> Any:
    # Probabilities are computed again: a twentieth of a block's products, and nothing of N x N is kept.
    q, k, v = primals
    dq: list[mx.array] = []
    dk = dv = None
    for at in range(0, q.shape[2], BLOCK):
        rows = slice(at, at + BLOCK)
        grad, shares = cotangents[0][:, :, rows], _shares(q[:, :, rows], k)
        # The mean of the gradient under the probabilities is the product with the output (Dao et al. 2022, eq. 4).
        mean = (grad * outputs[0][:, :, rows]).sum(axis=-1, keepdims=True)
        scores = shares * (grad @ mx.swapaxes(v, -1, -2) - mean)
        dq.append(scores @ k)
        for_k, for_v = mx.swapaxes(scores, -1, -2) @ q[:, :, rows], mx.swapaxes(shares, -1, -2) @ grad
        dk, dv = (for_k, for_v) if dk is None else (dk + for_k, dv + for_v)
    return [mx.concatenate(dq, axis=2), dk, dv]
