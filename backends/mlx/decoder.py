"""GPT-2's forward pass over a dictionary of arrays under canonical names (linear weights [in, out])."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from musiclora.backends.mlx import dora, lora
from musiclora.backends.mlx.kernels import attention, ops, quantised
from musiclora.backends.mlx.kernels.quantised import Weights
from musiclora.backends.mlx.lora import DropoutPool
from musiclora.convert.adapters.lora import magnitude_key, state_keys
from musiclora.convert.models.gpt2 import Gpt2Config

EMBEDDING = "transformer.wte.weight"  # also the output head
POSITIONS = "transformer.wpe.weight"
LAST_NORM = "transformer.ln_f.weight"


@dataclass(frozen=True)
class Dropout:
    """Dropout masks of one pass: a pool, and the offset of each adapted module's mask in it."""

    pool: DropoutPool
    names: tuple[str, ...]
    offsets: mx.array  # int32 [names]

    def mask(self, name: str, shape: tuple[int, ...]) -> mx.array:
        return self.pool.mask(self.offsets[self.names.index(name)], shape)


@dataclass(frozen=True)
class ActiveAdapter:
    """Factors under their state keys, the update's scale, and dropout while training."""

    factors: Weights
    scale: float
    dropout: Dropout | None = None


def block_path(index: int) -> str:
    """Return the path of a transformer block."""
    return f"transformer.h.{index}"


def conv1d(x: mx.array, name: str, weights: Weights, adapter: ActiveAdapter | None) -> mx.array:
    """Apply one Conv1D, and its adapter where it has one, to x [N, in]."""
    parts, bias = quantised.find(weights, name), weights[f"{name}.bias"]
    own = adapter if adapter is not None and state_keys(name)[0] in adapter.factors else None
    mask = own.dropout.mask(name, x.shape) if own and own.dropout else None
    if own and magnitude_key(name) in own.factors:
        return _weight_decomposed(x, name, weights, own, mask) + bias
    y = quantised.packed_product(x, parts) + bias if parts else mx.addmm(bias, x, weights[f"{name}.weight"])
    if own is None:
        return y
    key_a, key_b = state_keys(name)
    return lora.adapted(x, y, own.factors[key_a], own.factors[key_b], own.scale, mask)


def _weight_decomposed(
    x: mx.array, name: str, weights: Weights, adapter: ActiveAdapter, mask: mx.array | None
) -> mx.array:
    """Apply one Conv1D with its DoRA adapter, without the bias, to x [N, in]."""
    parts, weight = quantised.find(weights, name), weights[f"{name}.weight"]
    a, b = (adapter.factors[key] for key in state_keys(name))
    whole = quantised.dequantised(parts, a.shape[1]) if parts else weight
    gain = adapter.factors[magnitude_key(name)] / dora.row_lengths(whole, a, b, adapter.scale, conv1d=parts is None)

    def product(x: mx.array) -> mx.array:
        return quantised.packed_product(x, parts) if parts else x @ weight

    return dora.adapted(x, product, (a, b), gain, adapter.scale, mask)


def layer_norm(x: mx.array, name: str, weights: Weights, eps: float) -> mx.array:
    return mx.fast.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def embed(tokens: mx.array, positions: mx.array | slice | None, weights: Weights) -> mx.array:
    """Embed tokens and positions, [B, L, d]; without positions each row counts from 0."""
    if positions is None:
        positions = slice(tokens.shape[1])
    return lookup(tokens, EMBEDDING, weights) + lookup(positions, POSITIONS, weights)


def lookup(index: mx.array | slice, name: str, weights: Weights) -> mx.array:
    """Read rows of a table, [..., d] for an index [...] or a slice."""
    parts = quantised.find(weights, name.removesuffix(".weight"))
    return quantised.rows(parts, index, width(weights)) if parts else weights[name][index]


def table(weights: Weights) -> mx.array:
    """Return the token embedding [V, d], which is also the output head."""
    parts = quantised.find(weights, EMBEDDING.removesuffix(".weight"))
    return quantised.dequantised(parts, width(weights)) if parts else weights[EMBEDDING]


def width(weights: Weights) -> int:
    """Return the number of channels of a state."""
    return weights[LAST_NORM].shape[0]


def split_heads(qkv: mx.array, batch: int, n_head: int) -> tuple[mx.array, mx.array, mx.array]:
    """Split qkv [B*L, 3d] into queries, keys and values [B, H, L, D]."""
    length, width = qkv.shape[0] // batch, qkv.shape[1] // (3 * n_head)
    q, k, v = qkv.reshape(batch, length, 3, n_head, width).transpose(2, 0, 3, 1, 4)
    return q, k, v


def decoder_block(
    x: mx.array,
    index: int,
    weights: Weights,
    adapter: ActiveAdapter | None,
    config: Gpt2Config,
    batch: int,
    mask: mx.array | None,
) -> mx.array:
    """Apply the transformer block of this index to x [B*L, d]."""
    at = block_path(index)
    qkv = conv1d(layer_norm(x, f"{at}.ln_1", weights, config.layer_norm_epsilon), f"{at}.attn.c_attn", weights, adapter)
    seen = attention.attend_causally(*split_heads(qkv, batch, config.n_head), mask, config.attention_scales()[index])
    seen = seen.transpose(0, 2, 1, 3).reshape(x.shape)
    x = x + conv1d(seen, f"{at}.attn.c_proj", weights, adapter)
    inner = conv1d(layer_norm(x, f"{at}.ln_2", weights, config.layer_norm_epsilon), f"{at}.mlp.c_fc", weights, adapter)
    return x + conv1d(ops.ACTIVATION_FUNCTIONS[config.activation_function](inner), f"{at}.mlp.c_proj", weights, adapter)


def hidden_states(
    tokens: mx.array,
    weights: Weights,
    config: Gpt2Config,
    adapter: ActiveAdapter | None = None,
    positions: mx.array | None = None,
    segments: mx.array | None = None,
    checkpointing: bool = False,
) -> mx.array:
    """Compute the states after the last layer norm, [B*L, d].

    Args:
        tokens: int32 [B, L].
        weights: under canonical names.
        config: the model's numbers.
        adapter: LoRA, or None.
        positions: int32 [B, L], or None to count from 0 in each row.
        segments: int32 [B, L], or None to let a token see its whole past.
        checkpointing: keep only the blocks' inputs and compute the rest again in the backward pass.
    """
    batch, length = tokens.shape
    x = embed(tokens, positions, weights).reshape(batch * length, -1)
    mask = None if segments is None else attention.segment_mask(segments)
    for index in range(config.n_layer):
        x = _run_block(x, index, weights, adapter, config, batch, mask, checkpointing)
    return layer_norm(x, "transformer.ln_f", weights, config.layer_norm_epsilon)


def _run_block(
    x: mx.array,
    index: int,
    weights: Weights,
    adapter: ActiveAdapter | None,
    config: Gpt2Config,
    batch: int,
    mask: mx.array | None,
    checkpointing: bool,
) -> mx.array:
    if not checkpointing:
        return decoder_block(x, index, weights, adapter, config, batch, mask)
    at = block_path(index)
    own = {k: v for k, v in weights.items() if k.startswith(f"{at}.")}
    factors = {k: v for k, v in adapter.factors.items() if k.startswith(f"{at}.")} if adapter else {}

    # Only what is an argument of a checkpointed function gets a gradient.
    def inner(x: mx.array, own: dict[str, mx.array], factors: dict[str, mx.array]) -> mx.array:
        part = ActiveAdapter(factors, adapter.scale, adapter.dropout) if adapter else None
        return decoder_block(x, index, own, part, config, batch, mask)

    return mx.checkpoint(inner)(x, own, factors)
