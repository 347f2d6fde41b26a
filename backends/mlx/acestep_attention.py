"""Layers that ACE-Step's transformer and its condition encoder share: grouped-query attention with QK-norm, and MLP."""

from __future__ import annotations

import mlx.core as mx

from musiclora.backends.mlx.decoder import ActiveAdapter
from musiclora.backends.mlx.kernels import grouped_attention, ops
from musiclora.backends.mlx.kernels.quantised import Weights
from musiclora.backends.mlx.linear import linear
from musiclora.convert.models.acestep_config import SLIDING, AceStepConfig, StackConfig


def norm(x: mx.array, name: str, weights: Weights, config: AceStepConfig) -> mx.array:
    """Apply RMSNorm over the last axis."""
    return mx.fast.rms_norm(x, weights[f"{name}.weight"], config.rms_norm_eps)


def queries(
    x: mx.array,
    at: str,
    weights: Weights,
    adapter: ActiveAdapter | None,
    config: AceStepConfig,
    stack: StackConfig,
    batch: int,
) -> mx.array:
    """Project x [B * N, hidden] to normalised queries [B, heads, N, head_dim]; at is the attention's path."""
    q = linear(x, f"{at}.q_proj", weights, adapter).reshape(batch, -1, stack.heads, stack.head_dim)
    return norm(q, f"{at}.q_norm", weights, config).transpose(0, 2, 1, 3)


def keys_and_values(
    x: mx.array,
    at: str,
    weights: Weights,
    adapter: ActiveAdapter | None,
    config: AceStepConfig,
    stack: StackConfig,
    batch: int,
) -> tuple[mx.array, mx.array]:
    """Project x [B * N, hidden] to normalised keys and to values, each [B, kv_heads, N, head_dim]."""
    shape = (batch, -1, stack.kv_heads, stack.head_dim)
    k = norm(linear(x, f"{at}.k_proj", weights, adapter).reshape(shape), f"{at}.k_norm", weights, config)
    v = linear(x, f"{at}.v_proj", weights, adapter).reshape(shape)
    return k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)


def joined_heads(x: mx.array) -> mx.array:
    """Lay heads [B, H, N, D] side by side, [B * N, H * D]."""
    batch, heads, length, width = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch * length, heads * width)


def self_attention(
    x: mx.array,
    at: str,
    weights: Weights,
    adapter: ActiveAdapter | None,
    config: AceStepConfig,
    stack: StackConfig,
    batch: int,
    kind: str,
    seen: mx.array | None = None,
) -> mx.array:
    """Attend from each row to the rows of its own example, with rotary embedding.

    Args:
        x: [B * N, hidden].
        at: path of the attention.
        weights: of the model.
        adapter: LoRA, or None.
        config: the model's numbers.
        stack: sizes of the blocks.
        batch: B.
        kind: `sliding_attention` or `full_attention`.
        seen: bool [B, N], False in rows of padding, which only they themselves may see; None where there are none.

    Returns:
        [B * N, hidden].
    """
    q = queries(x, at, weights, adapter, config, stack, batch)
    k, v = keys_and_values(x, at, weights, adapter, config, stack, batch)
    # The halves of a head are rotated against each other, as in Qwen3; not neighbouring pairs.
    q, k = (
        mx.fast.rope(y, stack.head_dim, traditional=False, base=config.rope_theta, scale=1.0, offset=0) for y in (q, k)
    )
    if kind == SLIDING:
        found = grouped_attention.attend_in_window(q, k, v, config.sliding_window, seen)
    else:
        found = grouped_attention.attend(q, k, v, seen)
    return linear(joined_heads(found), f"{at}.o_proj", weights, adapter)


def mlp(x: mx.array, at: str, weights: Weights, adapter: ActiveAdapter | None) -> mx.array:
    """Apply the gated MLP (SwiGLU, Shazeer 2020, arXiv 2002.05202) to x [rows, hidden]."""
    gate = ops.ACTIVATION_FUNCTIONS["silu"](linear(x, f"{at}.gate_proj", weights, adapter))
    return linear(gate * linear(x, f"{at}.up_proj", weights, adapter), f"{at}.down_proj", weights, adapter)
