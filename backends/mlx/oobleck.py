"""The Oobleck codec on MLX: sound to latents and back (Stable Audio's variational auto-encoder)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from musiclora.backends import codec_chunks
from musiclora.backends.base import Codec
from musiclora.backends.mlx import convolution, device
from musiclora.convert.models.oobleck import read_oobleck

Weights = dict[str, mx.array]

_FLOOR = 1e-9  # added to exp(beta), as the original does

# sin(y)^2 = v Q(v) with v = y^2 on |y| <= pi/2: a Chebyshev fit of our own, absolute error 2e-7 in float32.
_SIN2 = (-3.6197403244e-06, 1.3928600027e-04, -3.1722761814e-03, 4.4443082951e-02, -3.3333304122e-01, 0.99999998983)
_ROUND = 12582912.0  # 1.5 * 2^23: adding and subtracting it rounds a small float to an integer
_PI_HIGH, _PI_LOW = 3.140625, 9.67653589793e-4  # the high part has ten bits, so that its multiples are exact


def _sin_squared(y: mx.array) -> mx.array:
    """Square of the sine, float32; on the CPU a polynomial, since MLX's sine takes 24 ns an element there."""
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
    """X + amplitude sin(frequency x)^2 over channels (Ziyin et al. 2020, arXiv 2006.08195, with an amplitude).

    Args:
        x: [B, T, C].
        frequency: float32 [C], exp(alpha).
        amplitude: float32 [C], 1 / (exp(beta) + 1e-9).
    """
    wide = x.astype(mx.float32)
    return (wide + amplitude * _sin_squared(wide * frequency)).astype(x.dtype)


def _stored(name: str, value: np.ndarray, stages: int) -> np.ndarray:
    """One tensor of the checkpoint in the form that the passes below read, float32."""
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


def _activated(x: mx.array, at: str, weights: Weights) -> mx.array:
    return snake(x, weights[f"{at}.alpha"], weights[f"{at}.beta"])


def _conv(x: mx.array, at: str, weights: Weights, dilation: int = 1) -> mx.array:
    y = convolution.same(x, weights[f"{at}.weight"], dilation)
    bias = weights.get(f"{at}.bias")  # the decoder's last one has none
    return y if bias is None else y + bias


def _unit(x: mx.array, at: str, weights: Weights, dilation: int) -> mx.array:
    """Residual unit: a wide convolution and one of a single tap, a Snake before each."""
    y = _conv(_activated(x, f"{at}.0", weights), f"{at}.1", weights, dilation)
    return x + _conv(_activated(y, f"{at}.2", weights), f"{at}.3", weights)


def encoded(x: mx.array, weights: Weights, stages: int) -> mx.array:
    """Mean and scale, one after the other on the channels [B, T, 2 C], of sound [B, N, audio channels]."""
    x = _conv(x, "encoder.layers.0", weights)
    for i in range(1, stages + 1):
        at = f"encoder.layers.{i}.layers"
        for k, dilation in enumerate(codec_chunks.DILATIONS):
            x = _unit(x, f"{at}.{k}.layers", weights, dilation)
        x = convolution.downsampled(_activated(x, f"{at}.3", weights), weights[f"{at}.4.weight"])
        x = x + weights[f"{at}.4.bias"]
    return _conv(_activated(x, f"encoder.layers.{stages + 1}", weights), f"encoder.layers.{stages + 2}", weights)


def decoded(x: mx.array, weights: Weights, stages: int) -> mx.array:
    """Sound [B, hop T, audio channels] of latents [B, T, C]."""
    x = _conv(x, "decoder.layers.0", weights)
    for i in range(1, stages + 1):
        at = f"decoder.layers.{i}.layers"
        x = convolution.upsampled(_activated(x, f"{at}.0", weights), weights[f"{at}.1.weight"])
        x = x + weights[f"{at}.1.bias"]
        for k, dilation in enumerate(codec_chunks.DILATIONS):
            x = _unit(x, f"{at}.{k + 2}.layers", weights, dilation)
    return _conv(_activated(x, f"decoder.layers.{stages + 1}", weights), f"decoder.layers.{stages + 2}", weights)


class MlxOobleck:
    """A codec (implements `backends.base.Codec`)."""

    def __init__(self, checkpoint: Path, dtype: mx.Dtype) -> None:
        found = read_oobleck(checkpoint)
        config = found.config
        codec_chunks.check_config(config, str(checkpoint))
        self.config, self.dtype, self._stages = config, dtype, len(config.strides)
        self.sample_rate, self.hop = config.sample_rate, config.hop
        self.latent_channels, self.audio_channels = config.latent_dim, config.audio_channels
        self.weights: Weights = {}
        for name, value in found.tensors():
            kind = mx.float32 if name.endswith((".alpha", ".beta")) else dtype
            self.weights[name] = mx.array(_stored(name, value, self._stages)).astype(kind)
            mx.eval(self.weights[name])  # one by one, so that nothing is held twice

    def encode(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean and scale, each float32 [B, T, C], of float32 audio [B, 2, N]; see `codec_chunks.encode`."""
        return codec_chunks.encode(audio, self.config, self._encode)

    def decode(self, latents: np.ndarray, chunk: int | None = None, overlap: int | None = None) -> np.ndarray:
        """Audio float32 [B, 2, hop T] of latents [B, T, C]; see `codec_chunks.decode`."""
        return codec_chunks.decode(latents, self.config, self._decode, chunk, overlap)

    def _encode(self, audio: np.ndarray) -> np.ndarray:
        x = mx.array(np.ascontiguousarray(audio.transpose(0, 2, 1))).astype(self.dtype)
        return np.array(encoded(x, self.weights, self._stages).astype(mx.float32))

    def _decode(self, latents: np.ndarray) -> np.ndarray:
        x = mx.array(np.ascontiguousarray(latents)).astype(self.dtype)
        return np.array(decoded(x, self.weights, self._stages).astype(mx.float32)).transpose(0, 2, 1)


if TYPE_CHECKING:
    _: type[Codec] = MlxOobleck
