"""Forward pass of ACE-Step's transformer over diffusers' weights: entry, blocks, output, and the guided pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from musiclora.backends.torch.acestep_attention import (
    Blocks,
    ConditionMask,
    attended_row,
    cross_attention,
    keys_and_values,
    plan_blocks,
    plan_condition,
    self_attention,
)
from musiclora.backends.torch.acestep_layers import (
    Rotation,
    modulated_norm,
    norm,
    project,
    rotation_of,
    swiglu,
    time_embedding,
)
from musiclora.backends.torch.acestep_module import time_waves
from musiclora.convert.models.acestep_config import SLIDING, AceStepConfig


@dataclass(frozen=True)
class Frame:
    """The part of a pass that depends on neither the time, the noisy latents nor the condition.

    Attributes:
        frames: T; an odd length is padded to whole patches.
        valid: bool [B, T], or None where nothing is padding.
        static: the context's part of the entry, [B, L, width].
        rotation: rotary embedding of the rows.
        blocks: attention plan of each block of the transformer.
    """

    frames: int
    valid: Tensor | None
    static: Tensor
    rotation: Rotation
    blocks: tuple[Blocks, ...]


@dataclass(frozen=True)
class Crossing:
    """Keys and values of a condition in every block, and the constants that the null condition adds.

    Attributes:
        seen: keys and values [B, H, N, D] of each block.
        padding: of the condition.
        null: addend [1, 1, width] of each block.
    """

    seen: tuple[tuple[Tensor, Tensor], ...]
    padding: ConditionMask
    null: tuple[Tensor, ...]


def dtype_of(module: Any) -> torch.dtype:
    """Return the dtype of the weights, also where layers carry float32 adapters."""
    return cast(torch.dtype, module.norm_out.weight.dtype)


def _patches(x: Tensor, size: int) -> Tensor:
    """Pad x [B, T, C] with zeros and join `size` frames to a row: [B, L, size * C]."""
    missing = -x.shape[1] % size
    x = F.pad(x, (0, 0, 0, missing)) if missing else x
    return x.reshape(len(x), -1, size * x.shape[2])


def _entry_weight(module: Any, config: AceStepConfig, part: slice) -> Tensor:
    """Return the patch convolution's weight for some channels as a matrix [width, size * channels]."""
    return module.proj_in[1].weight[:, part].transpose(1, 2).flatten(1)


def frame_of(module: Any, config: AceStepConfig, context: Tensor, valid: Tensor) -> Frame:
    """Plan a pass over frames with context [B, T, 2 C] and valid bool [B, T]."""
    known = slice(0, 2 * config.latent_dim)
    rows = _patches(context.to(dtype_of(module)), config.patch_size)
    static = F.linear(rows, _entry_weight(module, config, known), module.proj_in[1].bias)
    length = static.shape[1]
    padded = None if bool(valid.all()) else valid
    kept = None if padded is None else _patches(padded[..., None], config.patch_size).any(dim=2)
    rotation = rotation_of(length, config.decoder.head_dim, config.rope_theta, static)
    full = plan_blocks(length, None, kept, static)
    band = plan_blocks(length, config.sliding_window, kept, static)
    blocks = tuple(band if kind == SLIDING else full for kind in config.layer_types)
    return Frame(context.shape[1], padded, static, rotation, blocks)


def embed_condition(module: Any, condition: Tensor) -> Tensor:
    """Project conditions float32 [B, N, D] to the transformer's width."""
    return project(module.condition_embedder, condition.to(dtype_of(module)))


def crossing_of(module: Any, condition: Tensor, valid: Tensor, null: Tensor) -> Crossing:
    """Compute the keys and values of packed conditions [B, N, D] once; null is the null condition [D]."""
    rows, row = embed_condition(module, condition), embed_condition(module, null[None, None])
    return Crossing(
        tuple(keys_and_values(block.cross_attn, rows) for block in module.layers),
        plan_condition(valid, rows),
        tuple(attended_row(block.cross_attn, row) for block in module.layers),
    )


def _enter(module: Any, config: AceStepConfig, x: Tensor, frame: Frame) -> Tensor:
    if frame.valid is not None:
        x = x.masked_fill(~frame.valid[..., None], 0)  # a patch may be half padding
    rows = _patches(x.to(frame.static.dtype), config.patch_size)
    return frame.static + F.linear(rows, _entry_weight(module, config, slice(2 * config.latent_dim, None)))


def _modulation(module: Any, time: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the output's [B, 1, width] and the blocks' [B, 6, width] modulation at ACE-Step's times t = r [B]."""
    waves, dtype = time_waves(), dtype_of(module)
    state, changes = time_embedding(module.time_embed, time, waves, dtype)
    state_r, changes_r = time_embedding(module.time_embed_r, torch.zeros_like(time[:1]), waves, dtype)  # t - r = 0
    return (state + state_r)[:, None], changes + changes_r


def _leave(module: Any, config: AceStepConfig, h: Tensor, state: Tensor, frames: int) -> Tensor:
    shift, scale = (module.scale_shift_table + state).chunk(2, dim=1)
    layer = module.proj_out[1]
    weight = layer.weight.permute(2, 1, 0).flatten(0, 1)
    out = F.linear(modulated_norm(h, module.norm_out, scale, shift), weight, layer.bias.repeat(config.patch_size))
    return out.view(len(h), -1, config.latent_dim)[:, :frames]


def _self_part(block: Any, h: Tensor, table: tuple[Tensor, ...], rotation: Rotation, blocks: Blocks) -> Tensor:
    shift, scale, gate = table[:3]
    seen = modulated_norm(h, block.self_attn_norm, scale, shift)
    return torch.addcmul(h, self_attention(block.self_attn, seen, rotation, blocks), gate)


def _mlp_part(block: Any, h: Tensor, table: tuple[Tensor, ...]) -> Tensor:
    shift, scale, gate = table[3:]
    return torch.addcmul(h, swiglu(block.mlp, modulated_norm(h, block.mlp_norm, scale, shift)), gate)


def _cross_part(block: Any, h: Tensor, seen: tuple[Tensor, Tensor], padding: ConditionMask) -> Tensor:
    return cross_attention(block.cross_attn, norm(h, block.cross_attn_norm), seen, padding)


def _run_block(
    block: Any,
    h: Tensor,
    changes: Tensor,
    rotation: Rotation,
    blocks: Blocks,
    condition: Tensor,
    padding: ConditionMask,
) -> Tensor:
    """Apply one block to h [B, L, width]; condition is embedded, [B, N, width]."""
    table = (block.scale_shift_table + changes).chunk(6, dim=1)
    h = _self_part(block, h, table, rotation, blocks)
    h = h + _cross_part(block, h, keys_and_values(block.cross_attn, condition), padding)
    return _mlp_part(block, h, table)


def velocity(
    module: Any, config: AceStepConfig, x: Tensor, time: Tensor, given: Mapping[str, Tensor], checkpointing: bool
) -> Tensor:
    """Compute the float32 velocity [B, T, C], from noise to data, with its gradient.

    Args:
        module: of `empty_module`, filled; adapters are applied.
        config: its sizes.
        x: noisy latents [B, T, C].
        time: float32 [B], 0 at noise and 1 at data.
        given: `context`, `valid`, `condition`, `condition_valid` of `acestep_batches.flow_inputs`.
        checkpointing: keep only the blocks' inputs for the backward pass.
    """
    frame = frame_of(module, config, given["context"], given["valid"])
    condition = embed_condition(module, given["condition"])
    padding = plan_condition(given["condition_valid"], condition)
    state, changes = _modulation(module, 1 - time)
    h = _enter(module, config, x, frame)
    for block, blocks in zip(module.layers, frame.blocks, strict=True):
        rest = (changes, frame.rotation, blocks, condition, padding)
        if checkpointing:
            # Dropout masks are functions of their names, so no random state is needed for the second pass.
            h = checkpoint(_run_block, block, h, *rest, use_reentrant=False, preserve_rng_state=False)
        else:
            h = _run_block(block, h, *rest)
    return -_leave(module, config, h, state, frame.frames).float()


def sampling_velocities(
    module: Any, config: AceStepConfig, x: Tensor, time: Tensor, frame: Frame, crossing: Crossing, twice: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute the float32 velocities p and q of x [B, T, C] without a gradient; q has the null condition.

    Both passes are one of 2 B rows. They first differ in the cross attention of the first block, which is where the
    rows are doubled.

    Args:
        module: filled, with adapters merged into its weights.
        config: its sizes.
        x: noisy latents.
        time: float32 [B], or [1] for all rows.
        frame: of `frame_of`.
        crossing: of `crossing_of`.
        twice: False computes p alone; q is then None.
    """
    rows = len(x)
    state, changes = _modulation(module, 1 - time)
    if twice and len(time) > 1:
        state, changes = (torch.cat([part, part]) for part in (state, changes))
    h = _enter(module, config, x, frame)
    for i, block in enumerate(module.layers):
        table = (block.scale_shift_table + changes).chunk(6, dim=1)
        own = table if i or len(changes) == 1 else tuple(part[:rows] for part in table)
        h = _self_part(block, h, own, frame.rotation, _doubled(frame.blocks[i], len(h) // rows))
        if twice and not i:
            h = torch.cat([h, h])
        h[:rows] += _cross_part(block, h[:rows], crossing.seen[i], crossing.padding)
        if twice:
            h[rows:] += crossing.null[i]
        h = _mlp_part(block, h, table)
    out = -_leave(module, config, h, state, frame.frames).float()
    return (out[:rows], out[rows:]) if twice else (out, None)


def _doubled(blocks: Blocks, times: int) -> Blocks:
    """Repeat masks of padding for the rows of both passes."""
    if times == 1 or all(b.mask is None or len(b.mask) == 1 for b in blocks):
        return blocks
    return tuple(type(b)(b.queries, b.keys, None if b.mask is None else b.mask.repeat(times, 1, 1, 1)) for b in blocks)
