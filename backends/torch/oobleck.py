"""Oobleck codec on torch: modules with stable-audio-tools' names, and a codec for numpy arrays."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from musiclora.backends import codec_chunks
from musiclora.backends.base import Codec
from musiclora.convert.models.oobleck import OobleckConfig, read_oobleck

_FLOOR = 1e-9  # added to exp(beta), as the original does


class Snake(nn.Module):
    """X + sin(exp(alpha) x)^2 / (exp(beta) + 1e-9), alpha and beta by channel (Ziyin et al. 2020, arXiv 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """X is [B, channels, N]."""
        frequency, amplitude = self.alpha.exp()[:, None], 1 / (self.beta.exp() + _FLOOR)[:, None]
        return torch.addcmul(x, (x * frequency).sin().square(), amplitude)


class _Layers(nn.Module):
    """A sequence of modules under the name `layers`."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ResidualUnit(_Layers):
    """Residual unit: a wide dilated convolution and one of a single tap, a Snake before each."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__(
            Snake(width),
            nn.Conv1d(width, width, 7, dilation=dilation, padding=3 * dilation),
            Snake(width),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _residual_units(width: int) -> list[nn.Module]:
    return [ResidualUnit(width, dilation) for dilation in codec_chunks.DILATIONS]


def _build_encoder(config: OobleckConfig) -> _Layers:
    widths = [config.channels * m for m in (1, *config.c_mults)]
    parts: list[nn.Module] = [nn.Conv1d(config.audio_channels, widths[0], 7, padding=3)]
    for i, stride in enumerate(config.strides):
        down = nn.Conv1d(widths[i], widths[i + 1], 2 * stride, stride, padding=-(-stride // 2))
        parts.append(_Layers(*_residual_units(widths[i]), Snake(widths[i]), down))
    parts += [Snake(widths[-1]), nn.Conv1d(widths[-1], config.encoder_latent_dim, 3, padding=1)]
    return _Layers(*parts)


def _build_decoder(config: OobleckConfig) -> _Layers:
    widths = [config.channels * m for m in (1, *config.c_mults)]
    parts: list[nn.Module] = [nn.Conv1d(config.latent_dim, widths[-1], 7, padding=3)]
    for i in reversed(range(len(config.strides))):
        stride = config.strides[i]
        up = nn.ConvTranspose1d(widths[i + 1], widths[i], 2 * stride, stride, padding=-(-stride // 2))
        parts.append(_Layers(Snake(widths[i + 1]), up, *_residual_units(widths[i])))
    parts += [Snake(widths[0]), nn.Conv1d(widths[0], config.audio_channels, 7, padding=3, bias=False)]
    return _Layers(*parts)


class Oobleck(nn.Module):
    """Encoder and decoder with weights folded (Evans et al. 2024, arXiv 2402.04825; names of stable-audio-tools)."""

    def __init__(self, config: OobleckConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = _build_encoder(config), _build_decoder(config)

    def encode(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Encode audio [B, channels, N] to posterior mean and scale, each [B, C, T]; T = floor(N / hop)."""
        mean, scale = self.encoder(audio).split(self.config.latent_dim, dim=1)
        return mean, scale

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents [B, C, T] to audio [B, channels, hop T]."""
        return self.decoder(latents)


class TorchOobleck:
    """A codec for numpy arrays (implements `backends.base.Codec`)."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype, device: torch.device) -> None:
        found = read_oobleck(checkpoint)
        config = found.config
        codec_chunks.check_config(config, str(checkpoint))
        self.config, self.dtype, self.device = config, dtype, device
        self.sample_rate, self.hop = config.sample_rate, config.hop
        self.latent_channels, self.audio_channels = config.latent_dim, config.audio_channels
        with torch.device("meta"):
            self.module = Oobleck(config)
        state = OrderedDict()
        for name, value in found.tensors():  # one by one, so that nothing is held twice
            # Copied: what safetensors gives may be read-only memory.
            state[name] = torch.from_numpy(np.array(value, np.float32)).to(device, dtype)
        self.module.load_state_dict(state, strict=True, assign=True)
        self.module.requires_grad_(False).eval()

    def encode(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode float32 audio [B, 2, N] to mean and scale, each float32 [B, T, C]; see `encode_pieces`."""
        return codec_chunks.encode_pieces(audio, self.config, self._encode)

    def decode(self, latents: np.ndarray, chunk: int | None = None, overlap: int | None = None) -> np.ndarray:
        """Decode latents [B, T, C] to audio float32 [B, 2, hop T]; see `decode_chunks`."""
        return codec_chunks.decode_chunks(latents, self.config, self._decode, chunk, overlap)

    def _encode(self, audio: np.ndarray) -> np.ndarray:
        return self._run_module(self.module.encoder, audio).transpose(0, 2, 1)

    def _decode(self, latents: np.ndarray) -> np.ndarray:
        return self._run_module(self.module.decoder, latents.transpose(0, 2, 1))

    def _run_module(self, module: nn.Module, values: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(values)).to(self.device, self.dtype)
            found: np.ndarray = module(x).float().cpu().numpy()
        return found


if TYPE_CHECKING:
    _: type[Codec] = TorchOobleck
