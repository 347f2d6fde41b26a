"""Layers of DiffRhythm's diffusion transformer, as torch modules with the original's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musiclora.backends.dit_tables import EPS, GROUPS, SCALE, angles, positions, waves
from musiclora.convert.models.diffrhythm import CONDITION, HEADS, DiffRhythmConfig

Rotation = tuple[Tensor, Tensor]


class NumberEmbedding(nn.Module):
    """Embedding of a number in [0, 1], such as the time."""

    def __init__(self) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(
            nn.Linear(2 * len(waves()), CONDITION), nn.SiLU(), nn.Linear(CONDITION, CONDITION)
        )

    def forward(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """Value float32 [B] -> [B, 512]."""
        angle = (SCALE * value.float())[:, None] * torch.from_numpy(waves()).to(value.device)
        return self.time_mlp(torch.cat([angle.sin(), angle.cos()], dim=1).to(dtype))


class ResponseNorm(nn.Module):
    """Global response normalisation (Woo et al. 2023, arXiv 2301.00808); as in the original, the norm is over time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, y: Tensor) -> Tensor:
        """Y is [B, N, C]."""
        size = torch.linalg.vector_norm(y, dim=1, keepdim=True, dtype=torch.float32)
        share = (size / (size.mean(dim=-1, keepdim=True) + EPS)).to(y.dtype)
        return y + torch.addcmul(self.beta, self.gamma, y * share)


class TextBlock(nn.Module):
    """ConvNeXt V2 block on x [B, N, C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.pwconv1 = nn.Linear(width, 2 * width)
        self.grn = ResponseNorm(2 * width)
        self.pwconv2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x.transpose(1, 2)).transpose(1, 2))
        return x + self.pwconv2(self.grn(F.gelu(self.pwconv1(y))))


class TextEmbedding(nn.Module):
    """Embedding of the phonemes of each frame in the context of all frames."""

    def __init__(self, config: DiffRhythmConfig) -> None:
        super().__init__()
        self.text_embed = nn.Embedding(config.text_num_embeds + 1, config.text_dim)
        self.text_blocks = nn.Sequential(*(TextBlock(config.text_dim) for _ in range(config.conv_layers)))

    def forward(self, text: Tensor) -> Tensor:
        """Text int [B, N] -> [B, N, text_dim]."""
        x = self.text_embed(text)
        if len(self.text_blocks):
            x = x + torch.from_numpy(positions(*x.shape[1:])).to(x.device, x.dtype)
        return self.text_blocks(x)


class PositionConvolutions(nn.Module):
    """Two grouped convolutions over 31 frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = (nn.Conv1d(width, width, 31, padding=15, groups=GROUPS) for _ in range(2))
        self.conv1d = nn.Sequential(first, nn.Mish(), second, nn.Mish())

    def forward(self, z: Tensor) -> Tensor:
        """Z is [B, N, dim]."""
        return z + self.conv1d(z.transpose(1, 2)).transpose(1, 2)


class InputEmbedding(nn.Module):
    """Projection of noisy latents and all conditions, frame by frame."""

    def __init__(self, config: DiffRhythmConfig) -> None:
        super().__init__()
        self.channels = config.mel_dim
        self.proj = nn.Linear(2 * config.mel_dim + config.text_dim + 2 * CONDITION, config.dim)
        self.conv_pos_embed = PositionConvolutions(config.dim)

    def project_ahead(self, known: Tensor) -> Tensor:
        """Project the inputs between the latents and the embedding; the layer carries no adapter then."""
        return F.linear(known, self.proj.weight[:, self.channels : -CONDITION], self.proj.bias)

    def forward(self, x: Tensor, made: Conditions, c: Tensor) -> Tensor:
        """X is [B, N, C] and c [B, 512]."""
        if made.known is not None:
            z = self.proj(torch.cat([x, made.known, c[:, None].expand(-1, x.shape[1], -1)], dim=-1))
        else:
            weight, static = self.proj.weight, cast(Tensor, made.static)
            z = static + F.linear(x, weight[:, : self.channels]) + F.linear(c, weight[:, -CONDITION:])[:, None]
        return self.conv_pos_embed(z)


class Attention(nn.Module):
    """Bidirectional attention over frames, or causal where the model is."""

    def __init__(self, dim: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotated(q, rotation), rotated(k, rotation)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.o_proj(seen.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(dim, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        if torch.is_grad_enabled():
            return self.down_proj(F.silu(gate) * self.up_proj(x))
        # In place: on a CPU the pages of new arrays this wide cost a sixth of the time.
        return self.down_proj(F.silu(gate, inplace=True).mul_(self.up_proj(x)))


class DiTBlock(nn.Module):
    """Transformer block on x [B, N, dim]."""

    def __init__(self, config: DiffRhythmConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config.dim, config.causal)
        self.mlp = Mlp(config.dim, config.dim * config.ff_mult)
        self.input_layernorm = nn.RMSNorm(config.dim, eps=EPS)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, eps=EPS)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation)
        return x + self.mlp(self.post_attention_layernorm(x))


class OutputNorm(nn.Module):
    """Layer norm whose scale and shift come from the condition."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=EPS)
        self.linear = nn.Linear(CONDITION, 2 * dim)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(c))[:, None].chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


def rotation_of(length: int, width: int, device: torch.device) -> Rotation:
    """Compute cosines and sines of the rotary embedding, float32 [length, width / 2]."""
    angle = torch.from_numpy(angles(length, width)).to(device)
    return angle.cos(), angle.sin()


def rotated(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate x [B, H, N, width] by its frame's number; its halves are the two coordinates."""
    cos, sin = rotation
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1).to(x.dtype)


@dataclass(frozen=True)
class Conditions:
    """The part of a pass that depends neither on the time nor on the noisy latents.

    Attributes:
        embedding: of the start and the duration, [B, 512].
        fusion: what is added after each block of the first half, [B, N, dim].
        known: known latents, text and style as the input layer reads them, [B, N, C + text_dim + 512], or None.
        static: in its place what the input layer makes of it, [B, N, dim].
    """

    embedding: Tensor
    fusion: tuple[Tensor, ...]
    known: Tensor | None
    static: Tensor | None = None

    def rows(self, count: int) -> Conditions:
        """Return the first rows only."""
        known, static = (None if part is None else part[:count] for part in (self.known, self.static))
        return Conditions(self.embedding[:count], tuple(part[:count] for part in self.fusion), known, static)
