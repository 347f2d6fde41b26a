"""Causal attention for training: torch's own kernel on a GPU, blocks that skip what no token sees on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Query rows of one block on the CPU, measured at 512 and 1024 tokens: a smaller block skips more, a larger one
# multiplies faster, and bfloat16 products need more work to be worth their set-up.
_BLOCK_QUERIES = {torch.float32: 64, torch.bfloat16: 128}
# Attention weights of one layer are kept for the backward pass up to this many bytes, and computed again beyond.
_KEEP_BYTES = 1 << 25


@dataclass(frozen=True)
class AttentionPlan:
    """Visibility of the tokens of a batch [B, L].

    Attributes:
        batch: rows.
        length: tokens in a row.
        runs: for each row the stretches (first, end) that attend within themselves; None where `mask` says it instead.
        mask: additive [B, 1, L, L]; None with plain causal attention or with runs.
    """

    batch: int
    length: int
    runs: tuple[tuple[tuple[int, int], ...], ...] | None = None
    mask: Tensor | None = None


def plan_attention(shape: tuple[int, int], segments: np.ndarray | None, like: Tensor) -> AttentionPlan:
    """Plan the attention of a batch: a token sees earlier tokens of its own segment and itself.

    Args:
        shape: (B, L).
        segments: int [B, L]; None means that each row is one segment.
        like: gives the device and dtype of the computation.
    """
    batch, length = shape
    if like.device.type == "cpu":
        runs = [_segment_runs(row) for row in segments] if segments is not None else [((0, length),)] * batch
        if all(r is not None for r in runs):
            return AttentionPlan(batch, length, tuple(r for r in runs if r is not None))
    if segments is None:
        return AttentionPlan(batch, length)
    ids = torch.from_numpy(np.array(segments)).to(like.device)
    seen = (ids[:, :, None] == ids[:, None, :]).tril_()
    mask = torch.zeros(batch, 1, length, length, dtype=like.dtype, device=like.device)
    return AttentionPlan(batch, length, None, mask.masked_fill_(~seen[:, None], float("-inf")))


def _segment_runs(row: np.ndarray) -> tuple[tuple[int, int], ...] | None:
    """Find stretches of equal segment ids; None where an id comes back later, which blocks cannot express."""
    cuts = np.flatnonzero(np.diff(row)) + 1
    edges = [0, *cuts.tolist(), len(row)]
    if len(np.unique(row)) < len(edges) - 1:
        return None
    return tuple(pairwise(edges))


def attend_causally(qkv: Tensor, n_head: int, plan: AttentionPlan, scale: float) -> Tensor:
    """Compute causal attention over qkv [B*L, 3d], giving [B*L, d]; scale multiplies the products of q and k."""
    rows, width = qkv.shape
    if plan.runs is not None:
        found: Tensor = _BlockAttention.apply(qkv, n_head, plan, scale)  # type: ignore[no-untyped-call]
        return found
    q, k, v = _split_heads(qkv, n_head, plan).unbind(0)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=plan.mask, is_causal=plan.mask is None, scale=scale)
    return out.transpose(1, 2).reshape(rows, width // 3)


def _split_heads(qkv: Tensor, n_head: int, plan: AttentionPlan) -> Tensor:
    """View [3, B, heads, L, head size] of qkv [B*L, 3d]."""
    head = qkv.shape[1] // (3 * n_head)
    return qkv.view(plan.batch, plan.length, 3, n_head, head).permute(2, 0, 3, 1, 4)


def _query_blocks(plan: AttentionPlan, size: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (row, first key, first query, end) of each block of queries; keys end where the queries do."""
    for row, runs in enumerate(plan.runs or ()):
        for first, end in runs:
            for start in range(first, end, size):
                yield row, first, start, min(start + size, end)


def _attention_weights(q: Tensor, k: Tensor, above: Tensor) -> Tensor:
    """Compute softmax of scaled q [H, n, D] against k [H, m, D], the last n keys causally."""
    count = q.shape[1]
    scores = torch.bmm(q, k.transpose(1, 2))
    scores[:, :, -count:].add_(above[:count, :count])
    return torch.softmax(scores, -1)


def _causal_mask(size: int, like: Tensor) -> Tensor:
    """Build a square of -inf above the diagonal, 0 elsewhere."""
    return torch.full((size, size), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)


class _BlockAttention(torch.autograd.Function):
    """Attention in blocks of queries, each against the keys from its segment's beginning to its own end."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, n_head: int, plan: AttentionPlan, scale: float) -> Tensor:
        size = _BLOCK_QUERIES.get(qkv.dtype, 64)
        above = _causal_mask(size, qkv)
        queries, keys, values = _split_heads(qkv, n_head, plan)
        out = qkv.new_empty(plan.batch, plan.length, n_head, values.shape[-1])
        kept: list[Tensor] = []
        half = plan.batch * n_head * plan.length**2 * qkv.element_size() // 2
        keep = ctx.needs_input_grad[0] and half <= _KEEP_BYTES
        for row, first, start, end in _query_blocks(plan, size):
            weights = _attention_weights(queries[row, :, start:end] * scale, keys[row, :, first:end], above)
            out[row, start:end].transpose(0, 1).copy_(torch.bmm(weights, values[row, :, first:end]))
            if keep:
                kept.append(weights)
        ctx.save_for_backward(qkv)
        ctx.settings = n_head, plan, size, scale, kept
        return out.view(qkv.shape[0], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (qkv,) = ctx.saved_tensors
        n_head, plan, size, scale, kept = ctx.settings
        above = _causal_mask(size, qkv)
        queries, keys, values = _split_heads(qkv, n_head, plan)
        grads = torch.empty_like(qkv)
        grad_q, grad_k, grad_v = _split_heads(grads, n_head, plan)
        grad = grad.reshape(plan.batch, plan.length, n_head, -1).transpose(1, 2)
        # Keys and values gather from several blocks, in float32 so that bfloat16 does not round each sum.
        sums = torch.zeros(2, *keys.shape[1:], dtype=torch.float32, device=qkv.device)
        done = 0
        for number, (row, first, start, end) in enumerate(_query_blocks(plan, size)):
            if row != done:
                grad_k[done], grad_v[done], done = sums[0], sums[1], row
                sums.zero_()
            q, k, v = queries[row, :, start:end] * scale, keys[row, :, first:end], values[row, :, first:end]
            weights = kept[number] if kept else _attention_weights(q, k, above)
            outer = grad[row, :, start:end].contiguous()
            inner = torch._softmax_backward_data(torch.bmm(outer, v.transpose(1, 2)), weights, -1, weights.dtype)
            grad_q[row, :, start:end] = torch.bmm(inner, k).mul_(scale)
            sums[0, :, first:end] += torch.bmm(inner.transpose(1, 2), q)
            sums[1, :, first:end] += torch.bmm(weights.transpose(1, 2), outer)
        grad_k[done], grad_v[done] = sums[0], sums[1]
        kept.clear()
        return grads, None, None, None
