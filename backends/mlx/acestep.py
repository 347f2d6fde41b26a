"""Forward pass of ACE-Step 1.5's transformer over a dictionary of arrays.

Names and layouts are those of `acestep_weights.transformer_weights`: without `decoder.`, as adapters know them.
"""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from musiclora.backends.mlx.acestep_attention import (
    joined_heads,
    keys_and_values,
    mlp,
    norm,
    queries,
    self_attention,
)
from musiclora.backends.mlx.acestep_weights import PATCHES_IN, PATCHES_OUT
from musiclora.backends.mlx.decoder import ActiveAdapter
from musiclora.backends.mlx.kernels import grouped_attention, ops
from musiclora.backends.mlx.kernels.quantised import Weights
from musiclora.backends.mlx.linear import linear
from musiclora.convert.models.acestep_config import TIME_FEATURES, AceStepConfig

_TIME_SCALE, _LONGEST_PERIOD = 1000.0, 10_000.0  # of the sinusoids


# --- parts that do not depend on the time ---


def _patches(x: mx.array, size: int) -> mx.array:
    """Lay each `size` frames of x [B, T, c] side by side, [B * N, size * c]; zeros fill the last patch up."""
    batch, length, channels = x.shape
    missing = -length % size
    if missing:
        x = mx.pad(x, [(0, 0), (0, missing), (0, 0)])
    return x.reshape(batch * (length + missing) // size, size * channels)


def prepare(
    condition: mx.array,
    valid: mx.array | None,
    context: mx.array,
    weights: Weights,
    adapter: ActiveAdapter | None,
    config: AceStepConfig,
    frames: mx.array | None = None,
) -> dict[str, mx.array]:
    """Compute the inputs that depend neither on the time nor on the noisy latents.

    Args:
        condition: output of the condition encoder [B, S, encoder hidden]. Rows of padding may hold anything, NaN too.
        valid: bool [B, S], False in rows of padding; None where there are none.
        context: source latents and mask [B, T, 2 C].
        weights: of the transformer.
        adapter: LoRA, or None.
        config: the model's numbers.
        frames: bool [B, T], False in frames of padding, which must be zero; None where there are none.

    Returns:
        `patches` [B * N, hidden], the context's part of the input; `states` [B * S, hidden], the condition as the cross
        attention reads it; `valid`, as given; `seen` bool [B, N], the patches with a valid frame, where there is
        padding.
    """
    dtype = weights["condition_embedder.bias"].dtype
    if valid is not None:
        # A product with a masked probability of 0 does not clear a NaN, so padding is cleared before the first layer.
        condition = mx.where(valid[..., None], condition, 0)
    rows = condition.astype(dtype).reshape(-1, condition.shape[-1])
    known = _patches(context.astype(dtype), config.patch_size)
    columns = weights[f"{PATCHES_IN}.weight"][:, : known.shape[1]]
    made = {
        "patches": known @ columns.T + weights[f"{PATCHES_IN}.bias"],
        "states": linear(rows, "condition_embedder", weights, adapter),
    }
    if frames is not None:
        made["seen"] = _patches(frames[..., None], config.patch_size).any(axis=1).reshape(len(frames), -1)
    return made if valid is None else made | {"valid": valid}


def prepare_keys(
    made: Weights, rows: int, weights: Weights, adapter: ActiveAdapter | None, config: AceStepConfig
) -> dict[str, mx.array]:
    """Replace the states of `prepare` by the cross attention's keys and values, which every step of sampling reads.

    Args:
        made: result of `prepare`.
        rows: B, examples in it.
        weights: of the transformer.
        adapter: LoRA, or None.
        config: the model's numbers.

    Returns:
        `keys.<block>` and `values.<block>` [B, kv_heads, S, head_dim] in place of `states`.
    """
    found = {name: value for name, value in made.items() if name != "states"}
    for i in range(len(config.layer_types)):
        at = f"layers.{i}.cross_attn"
        k, v = keys_and_values(made["states"], at, weights, adapter, config, config.decoder, rows)
        found |= {f"keys.{i}": k, f"values.{i}": v}
    return found


def with_null_condition(
    made: Weights, null: mx.array, weights: Weights, adapter: ActiveAdapter | None, config: AceStepConfig
) -> dict[str, mx.array]:
    """Append the unconditional examples of classifier-free guidance, for both passes in one batch.

    The null condition repeats one row. Attention to equal keys gives their common value whatever the query, so that the
    cross attention of these examples is a constant of each block.

    Args:
        made: result of `prepare_keys` for B examples.
        null: `null_condition_emb`, encoder hidden values.
        weights: of the transformer.
        adapter: LoRA, or None.
        config: the model's numbers.

    Returns:
        The same for 2 B examples, the second half without a condition; `constant.<block>` [1, hidden] joins.
    """
    stack = config.decoder
    row = null.astype(made["patches"].dtype).reshape(1, -1)
    state = linear(row, "condition_embedder", weights, adapter)
    found = dict(made) | {k: mx.concatenate([made[k]] * 2) for k in ("patches", "seen") if k in made}
    for i in range(len(config.layer_types)):
        at = f"layers.{i}.cross_attn"
        value = linear(state, f"{at}.v_proj", weights, adapter).reshape(stack.kv_heads, stack.head_dim)
        value = mx.repeat(value, stack.heads // stack.kv_heads, axis=0).reshape(1, -1)
        found[f"constant.{i}"] = linear(value, f"{at}.o_proj", weights, adapter)
    return found


# --- the transformer ---


def _sinusoids(t: mx.array) -> mx.array:
    """Compute cosines and sines of a time, float32 [B] -> [B, 256]."""
    half = TIME_FEATURES // 2
    frequencies = np.exp(-math.log(_LONGEST_PERIOD) * np.arange(half) / half).astype(np.float32)
    angle = (_TIME_SCALE * t.astype(mx.float32))[:, None] * mx.array(frequencies)
    return mx.concatenate([mx.cos(angle), mx.sin(angle)], axis=1)


def _embedded_time(t: mx.array, at: str, weights: Weights, adapter: ActiveAdapter | None) -> tuple[mx.array, mx.array]:
    """Embed a time [B] for the last layer, [B, hidden], and for the modulation of the blocks, [B, 6 * hidden]."""
    silu = ops.ACTIVATION_FUNCTIONS["silu"]
    x = _sinusoids(t).astype(weights[f"{at}.linear_1.bias"].dtype)
    x = linear(silu(linear(x, f"{at}.linear_1", weights, adapter)), f"{at}.linear_2", weights, adapter)
    return x, linear(silu(x), f"{at}.time_proj", weights, adapter)


def _modulated(
    x: mx.array, name: str, scale: mx.array, shift: mx.array, weights: Weights, config: AceStepConfig
) -> mx.array:
    """Normalise x [B * N, hidden], then scale and shift it by [B, 1, hidden] each."""
    y = norm(x, name, weights, config).reshape(len(scale), -1, x.shape[-1])
    return (y * (1 + scale) + shift).reshape(x.shape)


def _gated(x: mx.array, gate: mx.array) -> mx.array:
    """Multiply x [B * N, hidden] by a gate [B, 1, hidden]."""
    return (x.reshape(len(gate), -1, x.shape[-1]) * gate).reshape(x.shape)


def _cross_attention(
    x: mx.array,
    index: int,
    made: Weights,
    weights: Weights,
    adapter: ActiveAdapter | None,
    config: AceStepConfig,
    batch: int,
) -> mx.array:
    """Attend from x [B * N, hidden] to the valid rows of the condition; the null condition gives a constant."""
    at, constant = f"layers.{index}.cross_attn", made.get(f"constant.{index}")
    if constant is not None:
        x, batch = x[: len(x) // 2], batch // 2
    if "states" in made:
        k, v = keys_and_values(made["states"], at, weights, adapter, config, config.decoder, batch)
    else:
        k, v = made[f"keys.{index}"], made[f"values.{index}"]
    q = queries(x, at, weights, adapter, config, config.decoder, batch)
    seen = grouped_attention.attend(q, k, v, made.get("valid"))
    found = linear(joined_heads(seen), f"{at}.o_proj", weights, adapter)
    return found if constant is None else mx.concatenate([found, mx.broadcast_to(constant, found.shape)])


def transformer_block(
    x: mx.array,
    index: int,
    modulation: mx.array,
    made: Weights,
    weights: Weights,
    adapter: ActiveAdapter | None,
    config: AceStepConfig,
) -> mx.array:
    """Apply the block of this index to x [B * N, hidden], with modulation [B, 6, hidden]."""
    at, batch = f"layers.{index}", len(modulation)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = mx.split(
        weights[f"{at}.scale_shift_table"] + modulation, 6, axis=1
    )
    y = _modulated(x, f"{at}.self_attn_norm", scale, shift, weights, config)
    kind = config.layer_types[index]
    seen = made.get("seen")
    y = self_attention(y, f"{at}.self_attn", weights, adapter, config, config.decoder, batch, kind, seen)
    x = x + _gated(y, gate)
    y = norm(x, f"{at}.cross_attn_norm", weights, config)
    x = x + _cross_attention(y, index, made, weights, adapter, config, batch)
    y = _modulated(x, f"{at}.mlp_norm", mlp_scale, mlp_shift, weights, config)
    return x + _gated(mlp(y, f"{at}.mlp", weights, adapter), mlp_gate)


def _checkpointed_block(
    x: mx.array,
    index: int,
    modulation: mx.array,
    made: Weights,
    weights: Weights,
    adapter: ActiveAdapter | None,
    config: AceStepConfig,
) -> mx.array:
    """Apply a block that keeps only its inputs for the backward pass."""
    at = f"layers.{index}."
    own = {k: v for k, v in weights.items() if k.startswith(at)}
    factors = {k: v for k, v in adapter.factors.items() if k.startswith(at)} if adapter else {}
    names = ("states", "valid", "seen", f"keys.{index}", f"values.{index}", f"constant.{index}")
    read = {name: made[name] for name in names if name in made}

    # Only what is an argument of a checkpointed function gets a gradient.
    def inner(x: mx.array, modulation: mx.array, read: Weights, own: Weights, factors: Weights) -> mx.array:
        part = ActiveAdapter(factors, adapter.scale, adapter.dropout) if adapter else None
        return transformer_block(x, index, modulation, read, own, part, config)

    return mx.checkpoint(inner)(x, modulation, read, own, factors)


def predict(
    x: mx.array,
    t: mx.array,
    made: Weights,
    weights: Weights,
    adapter: ActiveAdapter | None,
    config: AceStepConfig,
    r: mx.array | None = None,
    checkpointing: bool = False,
) -> mx.array:
    """Predict noise minus data at x = t noise + (1 - t) data.

    Args:
        x: noisy latents [B, T, C].
        t: float32 [B], from 0 (data) to 1 (noise).
        made: result of `prepare`, `prepare_keys` or `with_null_condition`.
        weights: of the transformer.
        adapter: LoRA, or None.
        config: the model's numbers.
        r: float32 [B], the second time; t without.
        checkpointing: keep only the blocks' inputs for the backward pass.

    Returns:
        [B, T, C] in the dtype of the weights.

    Source: Gong et al. 2026, ACE-Step 1.5 (arXiv 2602.00744).
    """
    batch, length, channels = x.shape
    embedding, modulation = _embedded_time(t, "time_embed", weights, adapter)
    gap, gap_modulation = _embedded_time(mx.zeros((1,)) if r is None else t - r, "time_embed_r", weights, adapter)
    embedding, modulation = embedding + gap, (modulation + gap_modulation).reshape(batch, 6, -1)
    noisy = _patches(x.astype(made["patches"].dtype), config.patch_size)
    h = made["patches"] + noisy @ weights[f"{PATCHES_IN}.weight"][:, -noisy.shape[1] :].T
    run = _checkpointed_block if checkpointing else transformer_block
    for i in range(len(config.layer_types)):
        h = run(h, i, modulation, made, weights, adapter, config)
    shift, scale = mx.split(weights["scale_shift_table"] + embedding[:, None], 2, axis=1)
    h = _modulated(h, "norm_out", scale, shift, weights, config)
    frames = (h @ weights[f"{PATCHES_OUT}.weight"].T).reshape(batch, -1, channels)[:, :length]
    return frames + weights[f"{PATCHES_OUT}.bias"]
