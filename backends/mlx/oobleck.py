"""The Oobleck codec on MLX: sound to latents and back (Stable Audio's variational auto-encoder)."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np

from musiclora.backends.mlx import convolution, device
from musiclora.convert.errors import ConfigError, ConvertError, DataError
from musiclora.convert.oobleck import OobleckConfig, read_oobleck

Weights = dict[str, mx.array]

_DILATIONS = (1, 3, 9)
_PIECE = 128  # latent frames that are encoded at one time
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
        for k, dilation in enumerate(_DILATIONS):
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
        for k, dilation in enumerate(_DILATIONS):
            x = _unit(x, f"{at}.{k + 2}.layers", weights, dilation)
    return _conv(_activated(x, f"decoder.layers.{stages + 1}", weights), f"decoder.layers.{stages + 2}", weights)


def reach(config: OobleckConfig) -> int:
    """How many frames on each side an encoded frame may depend on, at most."""
    samples, step = 3, 1
    for stride in config.strides:
        samples += step * (3 * sum(_DILATIONS) + 2 * stride)
        step *= stride
    return -(-(samples + step) // step)


class MlxOobleck:
    """A codec (implements `backends.base.Codec`)."""

    def __init__(self, checkpoint: Path, dtype: mx.Dtype) -> None:
        found = read_oobleck(checkpoint)
        config = found.config
        if odd := [stride for stride in config.strides if stride % 2]:
            raise ConvertError(f"{checkpoint}: a codec with the odd stride {odd[0]} does not give hop samples a frame")
        self.config, self.dtype = config, dtype
        self.sample_rate, self.hop = config.sample_rate, config.hop
        self.latent_channels, self.audio_channels = config.latent_dim, config.audio_channels
        self.weights: Weights = {}
        for name, value in found.tensors():
            kind = mx.float32 if name.endswith((".alpha", ".beta")) else dtype
            self.weights[name] = mx.array(_stored(name, value, len(config.strides))).astype(kind)
            mx.eval(self.weights[name])  # one by one, so that nothing is held twice
        if config.encoder_latent_dim != 2 * config.latent_dim:
            raise ConvertError(
                f"{checkpoint}: the encoder gives {config.encoder_latent_dim} channels; mean and scale of "
                f"{config.latent_dim} need {2 * config.latent_dim}"
            )

    # --- encoding ---

    def encode(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean and scale, each float32 [B, T, C], of float32 audio [B, 2, N]; see `backends.base.Codec`.

        Long recordings are encoded in pieces that overlap by more than a frame's reach, which changes nothing but
        rounding.

        Raises:
            DataError: another shape, or less than one frame.
        """
        audio = np.asarray(audio, np.float32)
        if audio.ndim != 3 or audio.shape[1] != self.audio_channels or audio.shape[2] < self.hop:
            raise DataError(
                f"audio has shape {list(audio.shape)}; this codec encodes [B, {self.audio_channels}, N] with N at "
                f"least {self.hop}"
            )
        both = np.concatenate([self._encode_one(row) for row in audio])
        return both[..., : self.latent_channels].copy(), both[..., self.latent_channels :].copy()

    def _encode_one(self, row: np.ndarray) -> np.ndarray:
        """Mean and scale [1, T, 2 C] of [audio channels, N]."""
        frames, margin, parts = row.shape[1] // self.hop, reach(self.config), []
        for start in range(0, frames, _PIECE):
            stop = min(start + _PIECE, frames)
            first = max(0, start - margin)
            last = None if stop + margin >= frames else (stop + margin) * self.hop
            x = mx.array(np.ascontiguousarray(row[:, first * self.hop : last].T)[None]).astype(self.dtype)
            y = encoded(x, self.weights, len(self.config.strides))
            parts.append(np.array(y[:, start - first : stop - first].astype(mx.float32)))
        return np.concatenate(parts, axis=1)

    # --- decoding ---

    def decode(self, latents: np.ndarray, chunk: int | None = None, overlap: int | None = None) -> np.ndarray:
        """Audio float32 [B, 2, hop T] of latents [B, T, C]; see `backends.base.Codec`.

        Args:
            latents: float32.
            chunk: frames decoded at one time; None for all.
            overlap: frames that chunks share; None for a quarter of a chunk. The decoder of Stable Audio reaches 11
                frames, so from 22 on nothing is heard of the seams.

        Raises:
            DataError: another shape.
            ConfigError: chunk and overlap that leave nothing to advance by.
        """
        latents = np.asarray(latents, np.float32)
        if latents.ndim != 3 or latents.shape[2] != self.latent_channels or not latents.size:
            raise DataError(
                f"latents have shape {list(latents.shape)}; this codec decodes [B, T, {self.latent_channels}]"
            )
        frames = latents.shape[1]
        size = frames if chunk is None else chunk
        shared = overlap if overlap is not None else size // 4
        if size < 1 or not 0 <= shared < size:
            raise ConfigError(f"chunks of {size} frames cannot overlap by {shared}; choose 0 to {size - 1}")
        audio = np.empty((len(latents), self.audio_channels, frames * self.hop), np.float32)
        for row, out in zip(latents, audio, strict=True):
            for start in starts(frames, size, shared):
                self._decode_one(row, out, start, size, shared // 2)
        return audio

    def _decode_one(self, row: np.ndarray, out: np.ndarray, start: int, size: int, given_up: int) -> None:
        """Decode frames from start and paste them into out without what is given up at inner edges."""
        stop = min(start + size, len(row))
        y = decoded(mx.array(row[None, start:stop]).astype(self.dtype), self.weights, len(self.config.strides))
        first = start + given_up if start else 0
        last = stop - given_up if stop < len(row) else stop
        kept = y[0, (first - start) * self.hop : (last - start) * self.hop].astype(mx.float32)
        out[:, first * self.hop : last * self.hop] = np.array(kept).T


def starts(frames: int, size: int, overlap: int) -> list[int]:
    """Where chunks begin: every size - overlap frames while they fit, and a last one that ends with the latents."""
    if frames <= size:
        return [0]
    found = list(range(0, frames - size + 1, size - overlap))
    return found if found[-1] + size == frames else [*found, frames - size]
