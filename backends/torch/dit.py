"""DiffRhythm's diffusion transformer as a torch module, in which PEFT finds its targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from musiclora.backends.torch.dit_layers import (
    Conditions,
    DiTBlock,
    InputEmbedding,
    NumberEmbedding,
    OutputNorm,
    TextEmbedding,
    rotation_of,
)
from musiclora.convert.models.diffrhythm import HEADS, DiffRhythmConfig, read_diffrhythm


class DiT(nn.Module):
    """The velocity field; its parameters have the original's names without the prefix `transformer.`."""

    def __init__(self, config: DiffRhythmConfig) -> None:
        super().__init__()
        self.sizes = config  # PEFT takes an attribute `config` for one of transformers'
        self.time_embed, self.start_time_embed = NumberEmbedding(), NumberEmbedding()
        if config.duration_embedding:
            self.duration_time_embed = NumberEmbedding()
        self.text_embed = TextEmbedding(config)
        self.input_embed = InputEmbedding(config)
        self.transformer_blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        fusions = (nn.Sequential(nn.Linear(config.text_dim, config.dim), nn.SiLU()) for _ in range(config.depth // 2))
        self.text_fusion_linears = nn.ModuleList(fusions)
        self.norm_out = OutputNorm(config.dim)
        self.proj_out = nn.Linear(config.dim, config.mel_dim)

    @classmethod
    def empty(cls, config: DiffRhythmConfig) -> DiT:
        """Build a model without storage."""
        with torch.device("meta"):
            return cls(config).requires_grad_(False)

    @classmethod
    def from_folder(
        cls, path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> DiT:
        """Load a checkpoint folder or file; every tensor's name is proven used and filled.

        Raises:
            ConvertError: another model, or tensors that do not fit.
        """
        found = read_diffrhythm(Path(path))
        module = cls.empty(found.config)
        for name, value in found.tensors():  # one by one, so that nothing is held twice
            # Copied: what safetensors gives may be read-only memory.
            module.put(name, torch.from_numpy(np.array(value, np.float32)).to(device, dtype))
        return module

    def put(self, name: str, value: Tensor) -> None:
        """Register a frozen parameter."""
        parent, _, leaf = name.rpartition(".")
        self.get_submodule(parent).register_parameter(leaf, nn.Parameter(value, requires_grad=False))

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the weights, also where the layers carry float32 adapters."""
        return self.proj_out.weight.dtype

    def conditions(
        self,
        text: Tensor,
        style: Tensor,
        start_time: Tensor,
        duration: Tensor | None = None,
        cond: Tensor | None = None,
    ) -> Conditions:
        """Compute everything that depends neither on the time nor on the noisy latents.

        Args:
            text: int [B, N].
            style: [B, 512].
            start_time: float32 [B].
            duration: float32 [B], where the model has it.
            cond: known latents [B, N, C]; None is zeros.
        """
        states, dtype = self.text_embed(text), self.dtype
        batch, length, _ = states.shape
        if cond is None:
            cond = states.new_zeros(batch, length, self.sizes.mel_dim)
        styles = style.to(dtype)[:, None].expand(-1, length, -1)
        embedding = self.start_time_embed(start_time, dtype)
        if self.sizes.duration_embedding:
            embedding = embedding + self.duration_time_embed(cast(Tensor, duration), dtype)
        fusion = tuple(layer(states) for layer in self.text_fusion_linears)
        return Conditions(embedding, fusion, torch.cat([cond.to(dtype), states, styles], dim=-1))

    def ahead(self, made: Conditions) -> Conditions:
        """Compute the conditions' part of the input layer in advance, for a model without an adapter."""
        return replace(made, known=None, static=self.input_embed.project_ahead(cast(Tensor, made.known)))

    def velocity(self, x: Tensor, time: Tensor, made: Conditions, checkpointing: bool = False) -> Tensor:
        """Compute the velocity [B, N, C] at x [B, N, C] and time float32 [B]."""
        dtype = self.dtype
        c = self.time_embed(time, dtype) + made.embedding
        h = self.input_embed(x.to(dtype), made, c)
        rotation = rotation_of(x.shape[1], self.sizes.dim // HEADS, h.device)
        for i, block in enumerate(self.transformer_blocks):
            if checkpointing:
                # Dropout masks are functions of their names, so no random state is needed for the second pass.
                h = checkpoint(block, h, rotation, use_reentrant=False, preserve_rng_state=False)
            else:
                h = block(h, rotation)
            if i < len(made.fusion):
                h = h + made.fusion[i]
        return self.proj_out(self.norm_out(h, c))

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        text: Tensor,
        time: Tensor,
        style_prompt: Tensor,
        start_time: Tensor,
        duration: Tensor | None = None,
        drop_audio_cond: bool = False,
        drop_text: bool = False,
        drop_prompt: bool = False,
    ) -> Tensor:
        """Compute the velocity [B, N, C]; arguments have the original's names, and `time` may be 0-d."""
        text = torch.zeros_like(text) if drop_text else text
        style = torch.zeros_like(style_prompt) if drop_prompt else style_prompt
        made = self.conditions(text, style, start_time, duration, None if drop_audio_cond else cond)
        return self.velocity(x, time.expand(x.shape[0]), made)
