"""Oobleck codec on MLX: audio to latents and back (Stable Audio's variational auto-encoder)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from musiclora.backends import codec_chunks
from musiclora.backends.base import Codec
from musiclora.backends.mlx import device
from musiclora.backends.mlx.kernels import convolution
from musiclora.backends.mlx.kernels.quantised import Weights
from musiclora.convert.models.oobleck import read_oobleck

_FLOOR = 1e-9  # added to exp(beta), as the original does

# sin(y)^2 = v Q(v) with v = y^2 on |y| <= pi/2: a Chebyshev fit of our own, absolute error 2e-7 in float32.
_SIN2 = (-3.6197403244e-06, 1.3928600027e-04, -3.1722761814e-03, 4.4443082951e-02, -3.3333304122e-01, 0.99999998983)
_ROUND = 12582912.0  # 1.5 * 2^23: adding and subtracting it rounds a small float to an integer
_PI_HIGH, _PI_LOW = 3.140625, 9.67653589793e-4  # the high part has ten bits, so that its multiples are exact


def _sin_squared(y: mx.array) -> mx.array:
    """Compute sin^2, float32; on the CPU by a polynomial, since MLX's sine takes 24 ns an element there."""
    if device.is_gpu():
        return mx.square(mx.sin(y))
    n = (y * 0.3183098861837907 + _ROUND) - _ROUND
    r = (y - n * _PI_HIGH) - n * _PI_LOW
    v = r * r
    q = v * _SIN2[0] + _SIN2[1]
    for coefficient in _SIN2[2:]:
        q = q * v + coefficient
    return v * q


@mx.compile
def snake(x: mx.array, frequency: mx.array, amplitude: mx.array) -> mx.array:
    """Compute x + amplitude sin(frequency x)^2 by channel (Ziyin et al. 2020, arXiv 2006.08195, with an amplitude).

    Args:
        x: [B, T, C].
        frequency: float32 [C], exp(alpha).
        amplitude: float32 [C], 1 / (exp(beta) + 1e-9).
    """
    wide = x.astype(mx.float32)
    return (wide + amplitude * _sin_squared(wide * frequency)).astype(x.dtype)


def _stored_tensor(name: str, value: np.ndarray, stages: int) -> np.ndarray:
    """Convert one tensor of the checkpoint to the layout that the forward pass reads, float32."""
    value = np.asarray(value, np.float32)
    if name.endswith(".alpha"):
        return np.exp(value)
    if name.endswith(".beta"):
        return (1 / (np.exp(value) + np.float32(_FLOOR))).astype(np.float32)
    if value.ndim < 3:
        return value
    if name in {f"decoder.layers.{i}.layers.1.weight" for i in range(1, stages + 1)}:
        inputs, outputs, size = value.shape  # transposed: inputs first
        value = value.reshape(inputs, outputs, 2, size // 2).transpose(2, 0, 3, 1)
    else:
        value = value.transpose(2, 1, 0)
    return np.ascontiguousarray(value)


def _apply_snake(x: mx.array, at: str, weights: Weights) -> mx.array:
    return snake(x, weights[f"{at}.alpha"], weights[f"{at}.beta"])


def _apply_conv(x: mx.array, at: str, weights: Weights, dilation: int = 1) -> mx.array:
    y = convolution.same(x, weights[f"{at}.weight"], dilation)
    bias = weights.get(f"{at}.bias")  # the decoder's last one has none
    return y if bias is None else y + bias


def _residual_unit(x: mx.array, at: str, weights: Weights, dilation: int) -> mx.array:
    """Apply a residual unit: a wide convolution and one of a single tap, a Snake before each."""
    y = _apply_conv(_apply_snake(x, f"{at}.0", weights), f"{at}.1", weights, dilation)
    return x + _apply_conv(_apply_snake(y, f"{at}.2", weights), f"{at}.3", weights)


def encoded(x: mx.array, weights: Weights, stages: int) -> mx.array:
    """Encode audio [B, N, audio channels] to mean and scale, concatenated on the channels [B, T, 2 C]."""
    x = _apply_conv(x, "encoder.layers.0", weights)
    for i in range(1, stages + 1):
        at = f"encoder.layers.{i}.layers"
        for k, dilation in enumerate(codec_chunks.DILATIONS):
            x = _residual_unit(x, f"{at}.{k}.layers", weights, dilation)
        x = convolution.downsampled(_apply_snake(x, f"{at}.3", weights), weights[f"{at}.4.weight"])
        x = x + weights[f"{at}.4.bias"]
    return _apply_conv(
        _apply_snake(x, f"encoder.layers.{stages + 1}", weights), f"encoder.layers.{stages + 2}", weights
    )


def decoded(x: mx.array, weights: Weights, stages: int) -> mx.array:
    """Decode latents [B, T, C] to audio [B, hop T, audio channels]."""
    x = _apply_conv(x, "decoder.layers.0", weights)
    for i in range(1, stages + 1):
        at = f"decoder.layers.{i}.layers"
        x = convolution.upsampled(_apply_snake(x, f"{at}.0", weights), weights[f"{at}.1.weight"])
        x = x + weights[f"{at}.1.bias"]
        for k, dilation in enumerate(codec_chunks.DILATIONS):
            x = _residual_unit(x, f"{at}.{k + 2}.layers", weights, dilation)
    return _apply_conv(
        _apply_snake(x, f"decoder.layers.{stages + 1}", weights), f"decoder.layers.{stages + 2}", weights
    )


class MlxOobleck:
    """A codec (implements `backends.base.Codec`)."""

    def __init__(self, checkpoint: Path, dtype: mx.Dtype) -> None:
        found = read_oobleck(checkpoint)
        config = found.config
        codec_chunks.check_config(config, str(checkpoint))
        self.config, self.dtype, self._stages = config, dtype, len(config.strides)
        self.sample_rate, self.hop = config.sample_rate, config.hop
        self.latent_channels, self.audio_channels = config.latent_dim, config.audio_channels
        self.weights: dict[str, mx.array] = {}
        for name, value in found.tensors():
            kind = mx.float32 if name.endswith((".alpha", ".beta")) else dtype
            self.weights[name] = mx.array(_stored_tensor(name, value, self._stages)).astype(kind)
            mx.eval(self.weights[name])  # one by one, so that nothing is held twice

    def encode(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode float32 audio [B, 2, N] to mean and scale, each float32 [B, T, C]; see `encode_pieces`."""
        return codec_chunks.encode_pieces(audio, self.config, self._encode)

    def decode(self, latents: np.ndarray, chunk: int | None = None, overlap: int | None = None) -> np.ndarray:
        """Decode latents [B, T, C] to audio float32 [B, 2, hop T]; see `decode_chunks`."""
        return codec_chunks.decode_chunks(latents, self.config, self._decode, chunk, overlap)

    def _encode(self, audio: np.ndarray) -> np.ndarray:
        x = mx.array(np.ascontiguousarray(audio.transpose(0, 2, 1))).astype(self.dtype)
        return np.array(encoded(x, self.weights, self._stages).astype(mx.float32))

    def _decode(self, latents: np.ndarray) -> np.ndarray:
        x = mx.array(np.ascontiguousarray(latents)).astype(self.dtype)
        return np.array(decoded(x, self.weights, self._stages).astype(mx.float32)).transpose(0, 2, 1)


if TYPE_CHECKING:
    _: type[Codec] = MlxOobleck
