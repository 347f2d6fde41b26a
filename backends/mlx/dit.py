"""Forward pass of DiffRhythm's diffusion transformer over a dictionary of arrays under canonical names.

Linear weights lie as in torch, [out, in]; the two kinds of convolution as `stored` puts them.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from musiclora.backends.dit_tables import BASE, EPS, GROUPS, SCALE, positions, waves
from musiclora.backends.mlx import dit_attention, dora, lora
from musiclora.backends.mlx.decoder import ActiveAdapter
from musiclora.backends.mlx.kernels import convolution, ops
from musiclora.backends.mlx.kernels.quantised import Weights
from musiclora.convert.adapters.lora import magnitude_key, state_keys
from musiclora.convert.models.diffrhythm import CONDITION, HEADS, DiffRhythmConfig

PROJECTION = "input_embed.proj"
_TINY = 1e-30  # keeps the gradient of a root finite where a channel is silent throughout


def stored(name: str, value: np.ndarray) -> np.ndarray:
    """Convert one tensor from torch's layout to the one that the forward pass reads."""
    if value.ndim != 3 or not (name.endswith("dwconv.weight") or ".conv1d." in name):
        return value
    if name.endswith("dwconv.weight"):
        return np.ascontiguousarray(value[:, 0].T)  # [k, C]
    out, inputs, size = value.shape
    return np.ascontiguousarray(value.reshape(GROUPS, out // GROUPS, inputs, size).transpose(3, 0, 2, 1))


def canonical(name: str, value: np.ndarray) -> np.ndarray:
    """Invert `stored`."""
    if name.endswith("dwconv.weight"):
        return np.ascontiguousarray(value.T)[:, None]
    if value.ndim == 4:
        size, groups, inputs, out = value.shape
        return np.ascontiguousarray(value.transpose(1, 3, 2, 0)).reshape(groups * out, inputs, size)
    return value


# --- layers ---


def linear_part(x: mx.array, name: str, weights: Weights, adapter: ActiveAdapter | None, start: int = 0) -> mx.array:
    """Multiply some inputs of one linear layer by its weight, without the bias, and add its adapter.

    Args:
        x: [rows, n]: n of the layer's inputs.
        name: its path.
        weights: of the model.
        adapter: LoRA, or None.
        start: index of the layer's input that is the first column of x.
    """
    rows, size = x.shape
    weight = weights[f"{name}.weight"]
    columns = _input_columns(weight, start, size).T
    key_a, key_b = state_keys(name)
    if adapter is None or key_a not in adapter.factors:
        return x @ columns
    mask = None
    if adapter.dropout:  # the parts of one layer's inputs take consecutive stretches of its mask
        offset = adapter.dropout.offsets[adapter.dropout.names.index(name)] + rows * start
        mask = adapter.dropout.pool.mask(offset, x.shape)
    a, b = adapter.factors[key_a], adapter.factors[key_b]
    own, magnitude = _input_columns(a, start, size), adapter.factors.get(magnitude_key(name))
    if magnitude is None:
        return lora.adapted(x, x @ columns, own, b, adapter.scale, mask)
    gain = magnitude / dora.row_lengths(weight, a, b, adapter.scale, conv1d=False)
    return dora.adapted(x, lambda part: part @ columns, (own, b), gain, adapter.scale, mask)


def _input_columns(matrix: mx.array, start: int, size: int) -> mx.array:
    return matrix if size == matrix.shape[1] else matrix[:, start : start + size]


def linear(x: mx.array, name: str, weights: Weights, adapter: ActiveAdapter | None) -> mx.array:
    """Apply one linear layer with its bias to x [rows, in]."""
    return linear_part(x, name, weights, adapter) + weights[f"{name}.bias"]


def embedded(value: mx.array, at: str, weights: Weights, adapter: ActiveAdapter | None) -> mx.array:
    """Embed a time, start or duration in [0, 1], float32 [B] -> [B, 512]; at is the embedding's path."""
    angle = (SCALE * value.astype(mx.float32))[:, None] * mx.array(waves())
    x = mx.concatenate([mx.sin(angle), mx.cos(angle)], axis=1).astype(weights[f"{at}.time_mlp.0.weight"].dtype)
    x = ops.ACTIVATION_FUNCTIONS["silu"](linear(x, f"{at}.time_mlp.0", weights, adapter))
    return linear(x, f"{at}.time_mlp.2", weights, adapter)


# --- text ---


def _response_norm(y: mx.array, at: str, weights: Weights) -> mx.array:
    """Apply global response normalisation (Woo et al. 2023, arXiv 2301.00808), its norm over time as originally."""
    wide = y.astype(mx.float32)
    size = mx.sqrt(mx.maximum(mx.square(wide).sum(axis=1, keepdims=True), _TINY))
    share = (size / (size.mean(axis=-1, keepdims=True) + EPS)).astype(y.dtype)
    return weights[f"{at}.gamma"] * (y * share) + weights[f"{at}.beta"] + y


def _text_block(x: mx.array, at: str, weights: Weights, adapter: ActiveAdapter | None) -> mx.array:
    """Apply one ConvNeXt V2 block to x [B, N, C]."""
    batch, length, _ = x.shape
    kernel = weights[f"{at}.dwconv.weight"]
    size = kernel.shape[0]
    padded = mx.pad(x, [(0, 0), (size // 2, size // 2), (0, 0)])
    y = sum((padded[:, j : j + length] * kernel[j] for j in range(size)), weights[f"{at}.dwconv.bias"])
    y = mx.fast.layer_norm(y, weights[f"{at}.norm.weight"], weights[f"{at}.norm.bias"], EPS)
    y = ops.ACTIVATION_FUNCTIONS["gelu"](linear(y.reshape(batch * length, -1), f"{at}.pwconv1", weights, adapter))
    y = _response_norm(y.reshape(batch, length, -1), f"{at}.grn", weights)
    return x + linear(y.reshape(batch * length, -1), f"{at}.pwconv2", weights, adapter).reshape(x.shape)


def text_states(text: mx.array, weights: Weights, adapter: ActiveAdapter | None, config: DiffRhythmConfig) -> mx.array:
    """Embed the phonemes of each frame in the context of all frames, int32 [B, N] -> [B, N, text_dim]."""
    x = weights["text_embed.text_embed.weight"][text]
    if config.conv_layers:
        x = x + mx.array(positions(text.shape[1], config.text_dim)).astype(x.dtype)
    for i in range(config.conv_layers):
        x = _text_block(x, f"text_embed.text_blocks.{i}", weights, adapter)
    return x


# --- the transformer ---


def conditions(
    given: Weights, weights: Weights, adapter: ActiveAdapter | None, config: DiffRhythmConfig
) -> dict[str, mx.array]:
    """Compute everything that depends neither on the time nor on the noisy latents.

    Args:
        given: `text` int32 [B, N], `style` [B, 512], `start_time` float32 [B]; optionally `duration` and
            `cond` [B, N, C].
        weights: of the model.
        adapter: LoRA, or None.
        config: the model's numbers.

    Returns:
        `static` [B, N, dim], the input layer's part; `embedding` [B, 512]; `fusion.<block>` [B, N, dim].
    """
    text = text_states(given["text"], weights, adapter, config)
    batch, length, width = text.shape
    rows = text.reshape(batch * length, width)
    style = mx.repeat(given["style"].astype(text.dtype), length, axis=0)
    channels = config.mel_dim
    static = linear_part(rows, PROJECTION, weights, adapter, 2 * channels) + weights[f"{PROJECTION}.bias"]
    static = static + linear_part(style, PROJECTION, weights, adapter, 2 * channels + width)
    if "cond" in given:
        known = given["cond"].astype(text.dtype).reshape(batch * length, channels)
        static = static + linear_part(known, PROJECTION, weights, adapter, channels)
    embedding = embedded(given["start_time"], "start_time_embed", weights, adapter)
    if config.duration_embedding:
        embedding = embedding + embedded(given["duration"], "duration_time_embed", weights, adapter)
    made = {"static": static.reshape(batch, length, -1), "embedding": embedding}
    for i in range(config.depth // 2):
        y = ops.ACTIVATION_FUNCTIONS["silu"](linear(rows, f"text_fusion_linears.{i}.0", weights, adapter))
        made[f"fusion.{i}"] = y.reshape(batch, length, -1)
    return made


def _position_convolutions(z: mx.array, weights: Weights) -> mx.array:
    """Add the output of two convolutions over 31 frames to z [B, N, dim]."""
    y = z
    for i in (0, 2):
        at = f"input_embed.conv_pos_embed.conv1d.{i}"
        y = ops.ACTIVATION_FUNCTIONS["mish"](convolution.grouped(y, weights[f"{at}.weight"]) + weights[f"{at}.bias"])
    return z + y


def dit_block(
    x: mx.array, at: str, weights: Weights, adapter: ActiveAdapter | None, config: DiffRhythmConfig, batch: int
) -> mx.array:
    """Apply one transformer block to x [B * N, dim]; at is its path."""
    length, width = x.shape[0] // batch, config.dim // HEADS

    def head(name: str) -> mx.array:
        y = linear_part(normed, f"{at}.self_attn.{name}_proj", weights, adapter)
        return y.reshape(batch, length, HEADS, width).transpose(0, 2, 1, 3)

    normed = mx.fast.rms_norm(x, weights[f"{at}.input_layernorm.weight"], EPS)
    q, k = (mx.fast.rope(head(n), width, traditional=False, base=BASE, scale=1.0, offset=0) for n in ("q", "k"))
    seen = dit_attention.attend_frames(q, k, head("v"), config.causal).transpose(0, 2, 1, 3).reshape(x.shape)
    x = x + linear_part(seen, f"{at}.self_attn.o_proj", weights, adapter)
    inner = mx.fast.rms_norm(x, weights[f"{at}.post_attention_layernorm.weight"], EPS)
    gate = ops.ACTIVATION_FUNCTIONS["silu"](linear_part(inner, f"{at}.mlp.gate_proj", weights, adapter))
    up = linear_part(inner, f"{at}.mlp.up_proj", weights, adapter)
    return x + linear_part(gate * up, f"{at}.mlp.down_proj", weights, adapter)


def _checkpointed_block(
    x: mx.array, at: str, weights: Weights, adapter: ActiveAdapter | None, config: DiffRhythmConfig, batch: int
) -> mx.array:
    """Apply a block that keeps only its input for the backward pass."""
    own = {k: v for k, v in weights.items() if k.startswith(f"{at}.")}
    factors = {k: v for k, v in adapter.factors.items() if k.startswith(f"{at}.")} if adapter else {}

    # Only what is an argument of a checkpointed function gets a gradient.
    def inner(x: mx.array, own: dict[str, mx.array], factors: dict[str, mx.array]) -> mx.array:
        part = ActiveAdapter(factors, adapter.scale, adapter.dropout) if adapter else None
        return dit_block(x, at, own, part, config, batch)

    return mx.checkpoint(inner)(x, own, factors)


def velocity(
    x: mx.array,
    time: mx.array,
    made: Weights,
    weights: Weights,
    adapter: ActiveAdapter | None,
    config: DiffRhythmConfig,
    checkpointing: bool = False,
) -> mx.array:
    """Compute the velocity [B, N, C] at x [B, N, C] and time float32 [B], given the result of `conditions`."""
    batch, length, channels = x.shape
    dtype = made["static"].dtype
    c = embedded(time, "time_embed", weights, adapter) + made["embedding"]
    rows, c_rows = x.astype(dtype).reshape(batch * length, channels), mx.repeat(c, length, axis=0)
    z = linear_part(rows, PROJECTION, weights, adapter, 0)
    z = z + linear_part(c_rows, PROJECTION, weights, adapter, 2 * channels + config.text_dim + CONDITION)
    h = _position_convolutions(z.reshape(batch, length, -1) + made["static"], weights).reshape(batch * length, -1)
    run = _checkpointed_block if checkpointing else dit_block
    for i in range(config.depth):
        h = run(h, f"transformer_blocks.{i}", weights, adapter, config, batch)
        if i < config.depth // 2:
            h = h + made[f"fusion.{i}"].reshape(h.shape)
    scale, shift = mx.split(
        linear(ops.ACTIVATION_FUNCTIONS["silu"](c), "norm_out.linear", weights, adapter)[:, None], 2, axis=-1
    )
    h = mx.fast.layer_norm(h, None, None, EPS).reshape(batch, length, -1) * (1 + scale) + shift
    return linear(h.reshape(batch * length, -1), "proj_out", weights, adapter).reshape(x.shape)
