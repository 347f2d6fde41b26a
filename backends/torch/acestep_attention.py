"""ACE-Step's attention: grouped heads, the sliding window as a band, and cross attention to packed conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from musiclora.backends.torch.acestep_layers import Rotation, norm, project, rotated_norm

# Query rows of one block of the band. A smaller block reads fewer keys that the mask hides, a larger one makes fewer
# calls. Forward and backward pass on a CPU with a window of 128: at 375 rows blocks of 64, 128, 256 and the masked
# square take 12.4, 12.9, 13.8 and 15.4 ms, at 3000 rows 193, 169, 178 and 889 ms.
_BLOCK_ROWS = 128


@dataclass(frozen=True)
class Block:
    """Stretch of queries and the keys that they see.

    Attributes:
        queries: (first, end).
        keys: (first, end).
        mask: additive [B or 1, 1, queries, keys], or None where all is seen.
    """

    queries: tuple[int, int]
    keys: tuple[int, int]
    mask: Tensor | None


Blocks = tuple[Block, ...]


def plan_blocks(length: int, window: int | None, valid: Tensor | None, like: Tensor) -> Blocks:
    """Plan the self attention of rows with this length.

    A row sees valid rows within the window, and itself: padding must see something, or its softmax is not finite.

    Args:
        length: rows of the transformer.
        window: rows to each side that are seen; None for all.
        valid: bool [B, length], or None where nothing is padding.
        like: gives the device and dtype of the computation.
    """
    if window is None or window >= length - 1:
        stretches = [((0, length), (0, length))]
        window = None
    else:
        stretches = [
            ((first, end), (max(0, first - window), min(length, end + window)))
            for first in range(0, length, _BLOCK_ROWS)
            for end in (min(first + _BLOCK_ROWS, length),)
        ]
    return tuple(Block(q, k, _block_mask(q, k, window, valid, like)) for q, k in stretches)


def _block_mask(
    queries: tuple[int, int], keys: tuple[int, int], window: int | None, valid: Tensor | None, like: Tensor
) -> Tensor | None:
    """Build the additive mask of one block, or None where all is seen."""
    if window is None and valid is None:
        return None
    rows, columns = (torch.arange(*edges, device=like.device) for edges in (queries, keys))
    distance = (rows[:, None] - columns).abs()
    seen = torch.ones_like(distance, dtype=torch.bool) if window is None else distance <= window
    seen = seen[None, None]
    if valid is not None:
        seen = seen & (valid[:, None, None, keys[0] : keys[1]] | (distance == 0))
    return _additive(seen, like)


def _additive(seen: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, float("-inf"))


@dataclass(frozen=True)
class ConditionMask:
    """Padding of packed conditions.

    Attributes:
        mask: additive [B, 1, 1, N], or None where all rows are as long.
        keep: [B, 1, 1], 0 for a condition without any row, whose cross attention adds nothing; None without such.
    """

    mask: Tensor | None
    keep: Tensor | None


def plan_condition(valid: Tensor, like: Tensor) -> ConditionMask:
    """Plan the cross attention to conditions with these rows, bool [B, N]."""
    if bool(valid.all()):
        return ConditionMask(None, None)
    empty = ~valid.any(dim=1)
    # An empty condition sees its first row of zeros, so that its softmax is finite; the result is then dropped.
    seen = valid | (empty[:, None] & (torch.arange(valid.shape[1], device=valid.device) == 0))
    keep = (~empty).to(like.dtype)[:, None, None] if bool(empty.any()) else None
    return ConditionMask(_additive(seen[:, None, None], like), keep)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attend from q [B, H, L, D] to k and v [B, H / groups, M, D]."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1 and mask is not None and q.device.type != "cpu":
        # Off the CPU grouped heads with a mask take the kernel that holds all products at once.
        k, v, groups = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=groups > 1)


def _attend_block(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    queries, keys = slice(*block.queries), slice(*block.keys)
    return _attend(q[:, :, queries], k[:, :, keys], v[:, :, keys], block.mask)


def _heads(layer: Any, projection: Any, x: Tensor) -> Tensor:
    """Project x [B, L, width] to heads [B, L, H, D]."""
    return project(projection, x).view(*x.shape[:2], -1, layer.head_dim)


def self_attention(layer: Any, x: Tensor, rotation: Rotation, blocks: Blocks) -> Tensor:
    """Attend among the rows of x [B, L, width]."""
    q = rotated_norm(_heads(layer, layer.q_proj, x), layer.q_norm, rotation).transpose(1, 2)
    k = rotated_norm(_heads(layer, layer.k_proj, x), layer.k_norm, rotation).transpose(1, 2)
    v = _heads(layer, layer.v_proj, x).transpose(1, 2)
    # The kernels give [B, L, H, D] in memory.
    parts = [_attend_block(q, k, v, block).transpose(1, 2) for block in blocks]
    out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return project(layer.o_proj, out.flatten(2))


def keys_and_values(layer: Any, condition: Tensor) -> tuple[Tensor, Tensor]:
    """Project embedded conditions [B, N, width] to keys and values [B, H, N, D]."""
    k = norm(_heads(layer, layer.k_proj, condition), layer.k_norm)
    return k.transpose(1, 2), _heads(layer, layer.v_proj, condition).transpose(1, 2)


def cross_attention(layer: Any, x: Tensor, seen: tuple[Tensor, Tensor], padding: ConditionMask) -> Tensor:
    """Attend from x [B, L, width] to the keys and values of conditions."""
    q = norm(_heads(layer, layer.q_proj, x), layer.q_norm).transpose(1, 2)
    out = _attend(q, *seen, padding.mask).transpose(1, 2).flatten(2)
    return project(layer.o_proj, out if padding.keep is None else out * padding.keep)


def attended_row(layer: Any, condition: Tensor) -> Tensor:
    """Compute what cross attention to one embedded row [B, 1, width] adds, [B, 1, width], for every query alike.

    The softmax over one key is 1. So it is over any number of equal keys, as in the null condition.
    """
    v = _heads(layer, layer.v_proj, condition)
    return project(layer.o_proj, v.repeat_interleave(layer.heads // layer.kv_heads, dim=2).flatten(2))
