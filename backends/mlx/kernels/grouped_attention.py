"""Bidirectional grouped-query attention, over all keys or a sliding window of them.

Query heads that share a key head lie below each other as rows of one product, so that no key is repeated. On the CPU
build a block of queries reads only the keys that its window reaches. On GPUs MLX's fused kernel does so for blocks of
the window's size. Where the sequence is short, one masked square has fewer scores and is taken instead.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import mlx.core as mx

from musiclora.backends.mlx import device
from musiclora.backends.mlx.kernels import ops

BLOCK_QUERIES = 64  # per block on the CPU; a block of a window of 128 then reads 320 keys
# Scores of a head up to which probabilities are kept for the backward pass; more are computed again.
KEEP_MAX_SCORES = 1 << 20
_HIDDEN = -1e30  # score of a key that a query does not see


def attend(q: mx.array, k: mx.array, v: mx.array, valid: mx.array | None = None) -> mx.array:
    """Compute softmax of q k' / sqrt(head size), times v, over all keys.

    Args:
        q: queries [B, H, N, D].
        k: keys [B, G, S, D]; each is shared by H / G consecutive query heads.
        v: values, like the keys.
        valid: bool [B, S], the keys that may be seen; None for all.

    Returns:
        [B, H, N, D]; zeros in examples without a valid key.
    """
    if valid is None:
        return _attend_to_all(q, k, v)
    some = valid.any(axis=1, keepdims=True)
    # A softmax over no key has no value: such an example sees every key, and its output is cleared.
    found = _attend_to_all(q, k, v, valid | ~some)
    return mx.where(some[:, :, None, None], found, mx.zeros((), found.dtype))


def attend_in_window(q: mx.array, k: mx.array, v: mx.array, window: int, valid: mx.array | None = None) -> mx.array:
    """Compute softmax of q k' / sqrt(head size), times v, over the keys at most `window` rows away.

    Args:
        q: queries [B, H, N, D].
        k: keys [B, G, N, D]; each is shared by H / G consecutive query heads.
        v: values, like the keys.
        window: rows to each side that a query sees.
        valid: bool [B, N], the keys that may be seen; None for all. The output of queries that see none means nothing.

    Returns:
        [B, H, N, D].
    """
    length = q.shape[2]
    if window >= length - 1:
        return attend(q, k, v, valid)
    if not device.is_gpu():
        return _attend_on_cpu(q, k, v, window, valid)
    blocks = -(-length // window)
    if 3 * window * blocks * window < length * length:
        return _attend_in_window_blocks(q, k, v, window, valid)
    everything = slice(0, length)
    near = _band(everything, everything, window) == 0
    if valid is not None:
        # A softmax needs a key: padding sees itself.
        near = (near & valid[:, None, :] | mx.eye(length, dtype=mx.bool_))[:, None]
    return _attend_fused(q, k, v, near)


def _attend_to_all(q: mx.array, k: mx.array, v: mx.array, seen: mx.array | None = None) -> mx.array:
    if device.is_gpu():
        return _attend_fused(q, k, v, None if seen is None else seen[:, None, None])
    return _attend_on_cpu(q, k, v, None, seen)


# --- CPU ---


def _attend_on_cpu(q: mx.array, k: mx.array, v: mx.array, window: int | None, seen: mx.array | None = None) -> mx.array:
    batch, heads, length, width = q.shape
    rows = (q * width**-0.5).reshape(batch, k.shape[1], heads // k.shape[1], length, width)
    found: mx.array = _blockwise(window)(rows, k, v, *([] if seen is None else [seen]))[0]
    return found.reshape(q.shape)


def _blocks(queries: int, keys: int, window: int | None) -> list[tuple[slice, slice]]:
    """List each block of queries with the keys that it may see."""
    found = []
    for start in range(0, queries, BLOCK_QUERIES):
        stop = min(start + BLOCK_QUERIES, queries)
        near = slice(0, keys) if window is None else slice(max(0, start - window), min(keys, stop + window))
        found.append((slice(start, stop), near))
    return found


def _folded(x: mx.array, rows: slice) -> mx.array:
    """Take rows of x [B, G, R, N, D] as [B, G, R * n, D]."""
    part = x[:, :, :, rows]
    return part.reshape(*part.shape[:2], -1, part.shape[-1])


def _block_probabilities(
    q: mx.array, k: mx.array, block: tuple[slice, slice], window: int | None, seen: mx.array | None
) -> mx.array:
    """Compute probabilities [B, G, R * n, K] of scaled queries [B, G, R, N, D] of a block over its K keys."""
    rows, near = block
    scores = (_folded(q, rows) @ mx.swapaxes(k[:, :, near], -1, -2)).astype(mx.float32)
    if window is not None:
        scores = scores + mx.tile(_band(rows, near, window), (q.shape[2], 1))
    if seen is not None:
        scores = mx.where(seen[:, None, None, near], scores, _HIDDEN)
    shares = ops.exp_shifted(scores, scores.max(axis=-1, keepdims=True))
    return (shares / shares.sum(axis=-1, keepdims=True)).astype(q.dtype)


def _band(rows: slice, near: slice, window: int) -> mx.array:
    """Build the additive mask float32 [n, K]: 0 where query and key are at most window apart."""
    distance = mx.arange(rows.start, rows.stop)[:, None] - mx.arange(near.start, near.stop)[None]
    return mx.where(mx.abs(distance) <= window, 0.0, _HIDDEN)


@cache
def _blockwise(window: int | None) -> Any:
    """Build the function (q, k, v, *seen) -> [output, *kept probabilities] that works block by block."""

    @mx.custom_function
    def attend_in_blocks(q: mx.array, k: mx.array, v: mx.array, *seen: mx.array) -> list[mx.array]:
        parts, kept = [], []
        blocks = _blocks(q.shape[3], k.shape[2], window)
        for block in blocks:
            shares = _block_probabilities(q, k, block, window, *(seen or [None]))
            parts.append((shares @ v[:, :, block[1]]).reshape(*q.shape[:3], -1, q.shape[-1]))
            kept.append(shares)
        keep = sum(_length(rows) * _length(near) for rows, near in blocks) <= KEEP_MAX_SCORES
        return [parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=3), *(kept if keep else [])]

    @attend_in_blocks.vjp
    def _(primals: Any, cotangents: Any, outputs: Any) -> Any:
        q, k, v, *seen = primals
        kept, dq, dk, dv = outputs[1:], [], [], []
        for index, block in enumerate(_blocks(q.shape[3], k.shape[2], window)):
            rows, near = block
            shares = kept[index] if kept else _block_probabilities(q, k, block, window, *(seen or [None]))
            grad = _folded(cotangents[0], rows)
            # The mean of the gradient under the probabilities is the product with the output (Dao et al. 2022, eq. 4).
            mean = (grad * _folded(outputs[0], rows)).sum(axis=-1, keepdims=True)
            scores = shares * (grad @ mx.swapaxes(v[:, :, near], -1, -2) - mean)
            dq.append((scores @ k[:, :, near]).reshape(*q.shape[:3], -1, q.shape[-1]))
            dk.append((near.start, mx.swapaxes(scores, -1, -2) @ _folded(q, rows)))
            dv.append((near.start, mx.swapaxes(shares, -1, -2) @ grad))
        return [mx.concatenate(dq, axis=3), _overlap_add(dk), _overlap_add(dv), *(mx.zeros_like(s) for s in seen)]

    return attend_in_blocks


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _overlap_add(parts: list[tuple[int, mx.array]]) -> mx.array:
    """Add arrays [B, G, n, D] at their first rows; starts and ends of consecutive ones never decrease."""
    done, (at, open_part) = [], parts[0]
    for start, part in parts[1:]:
        if start > at:
            done.append(open_part[:, :, : start - at])
            open_part = open_part[:, :, start - at :]
        shared = open_part.shape[2]
        total = open_part + part[:, :, :shared]
        open_part = total if part.shape[2] == shared else mx.concatenate([total, part[:, :, shared:]], axis=2)
        at = start
    return mx.concatenate([*done, open_part], axis=2) if done else open_part


# --- GPU ---


def _attend_fused(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)


def _attend_in_window_blocks(q: mx.array, k: mx.array, v: mx.array, window: int, valid: mx.array | None) -> mx.array:
    """Attend from each block of the window's size to itself and its neighbours; blocks lie along the batch axis."""
    batch, heads, length, width = q.shape
    blocks = -(-length // window)
    missing = blocks * window - length

    def with_neighbours(x: mx.array) -> mx.array:
        x = mx.pad(x, [(0, 0), (0, 0), (window, missing + window), (0, 0)])
        x = x.reshape(batch, -1, blocks + 2, window, x.shape[-1])
        x = mx.concatenate([x[:, :, i : i + blocks] for i in range(3)], axis=3)
        return x.transpose(0, 2, 1, 3, 4).reshape(batch * blocks, -1, 3 * window, x.shape[-1])

    rows = mx.pad(q, [(0, 0), (0, 0), (0, missing), (0, 0)]).reshape(batch, heads, blocks, window, width)
    rows = rows.transpose(0, 2, 1, 3, 4).reshape(batch * blocks, heads, window, width)
    mask = mx.tile(_window_block_mask(length, blocks, window), (batch, 1, 1))
    if valid is not None:
        seen = with_neighbours(valid[:, None, :, None]).reshape(-1, 1, 3 * window)
        mask = mask & seen | (mx.arange(window)[:, None] + window == mx.arange(3 * window)[None])
    found = _attend_fused(rows, with_neighbours(k), with_neighbours(v), mask[:, None])
    found = found.reshape(batch, blocks, heads, window, width).transpose(0, 2, 1, 3, 4)
    return found.reshape(batch, heads, blocks * window, width)[:, :, :length]


def _window_block_mask(length: int, blocks: int, window: int) -> mx.array:
    """Build the mask bool [blocks, window, 3 * window] of a block's queries over its own and its neighbours' keys."""
    queries = mx.arange(blocks * window).reshape(blocks, window, 1)
    keys = mx.arange(blocks)[:, None, None] * window + mx.arange(-window, 2 * window)[None, None]
    near = (mx.abs(queries - keys) <= window) & (keys >= 0) & (keys < length)
    # Queries past the end may see no key of the sequence, and a softmax needs one; their output is cut off.
    return near | (queries >= length)
