"""Splitting of long recordings into pieces for a codec, shared by all backends (numpy)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from musiclora.convert.errors import ConfigError, ConvertError, DataError
from musiclora.convert.models.oobleck_config import OobleckConfig

DILATIONS = (1, 3, 9)  # one per residual unit of a stage
PIECE_FRAMES = 128  # encoded at one time

CodecPass = Callable[[np.ndarray], np.ndarray]


def check_config(config: OobleckConfig, where: str) -> None:
    """Refuse a codec whose numbers of frames and samples do not fit each other.

    Raises:
        ConvertError: an odd stride, or an encoder that does not give mean and scale.
    """
    if odd := [stride for stride in config.strides if stride % 2]:
        raise ConvertError(f"{where}: a codec with the odd stride {odd[0]} does not give hop samples a frame")
    if config.encoder_latent_dim != 2 * config.latent_dim:
        raise ConvertError(
            f"{where}: the encoder gives {config.encoder_latent_dim} channels; mean and scale of "
            f"{config.latent_dim} need {2 * config.latent_dim}"
        )


def reach(config: OobleckConfig) -> int:
    """Bound the number of frames on each side that an encoded frame depends on."""
    samples, step = 3, 1
    for stride in config.strides:
        samples += step * (3 * sum(DILATIONS) + 2 * stride)
        step *= stride
    return -(-(samples + step) // step)


def starts(frames: int, size: int, overlap: int) -> list[int]:
    """List the chunks' first frames: every size - overlap frames, and a last chunk that ends with the latents."""
    if frames <= size:
        return [0]
    found = list(range(0, frames - size + 1, size - overlap))
    return found if found[-1] + size == frames else [*found, frames - size]


def encode_pieces(audio: np.ndarray, config: OobleckConfig, run: CodecPass) -> tuple[np.ndarray, np.ndarray]:
    """Encode float32 audio [B, 2, N] to the posterior's mean and scale, float32 [B, T, C]; T = floor(N / hop).

    Long recordings are encoded in pieces that overlap by more than a frame's reach; only rounding differs.

    Args:
        audio: sound in [-1, 1].
        config: the codec's numbers.
        run: the encoder, [1, audio channels, n] to mean and scale one after the other [1, t, 2 C].

    Raises:
        DataError: another shape, or less than one frame.
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 3 or audio.shape[1] != config.audio_channels or audio.shape[2] < config.hop:
        raise DataError(
            f"audio has shape {list(audio.shape)}; this codec encodes [B, {config.audio_channels}, N] with N at "
            f"least {config.hop}"
        )
    both = np.concatenate([_encode_recording(row, config, run) for row in audio])
    return both[..., : config.latent_dim].copy(), both[..., config.latent_dim :].copy()


def _encode_recording(row: np.ndarray, config: OobleckConfig, run: CodecPass) -> np.ndarray:
    """Encode one recording [audio channels, N] to mean and scale [1, T, 2 C]."""
    frames, margin, parts = row.shape[1] // config.hop, reach(config), []
    for start in range(0, frames, PIECE_FRAMES):
        stop = min(start + PIECE_FRAMES, frames)
        first = max(0, start - margin)
        last = None if stop + margin >= frames else (stop + margin) * config.hop
        found = run(row[None, :, first * config.hop : last])
        parts.append(found[:, start - first : stop - first])
    return np.concatenate(parts, axis=1)


def decode_chunks(
    latents: np.ndarray, config: OobleckConfig, run: CodecPass, chunk: int | None = None, overlap: int | None = None
) -> np.ndarray:
    """Decode latents [B, T, C] to float32 audio [B, 2, hop T]; see `backends.base.Codec`.

    Args:
        latents: float32.
        config: the codec's numbers.
        run: the decoder, [1, t, C] to [1, audio channels, hop t].
        chunk: frames decoded at one time; None for all.
        overlap: frames that chunks share; None for a quarter of a chunk. The decoder of Stable Audio reaches 11
            frames, so from 22 frames on the seams are inaudible.

    Raises:
        DataError: another shape.
        ConfigError: chunk and overlap that leave nothing to advance by.
    """
    latents = np.asarray(latents, np.float32)
    if latents.ndim != 3 or latents.shape[2] != config.latent_dim or not latents.size:
        raise DataError(f"latents have shape {list(latents.shape)}; this codec decodes [B, T, {config.latent_dim}]")
    frames, hop = latents.shape[1], config.hop
    size = frames if chunk is None else chunk
    shared = overlap if overlap is not None else size // 4
    if size < 1 or not 0 <= shared < size:
        raise ConfigError(f"chunks of {size} frames cannot overlap by {shared}; choose 0 to {size - 1}")
    audio = np.empty((len(latents), config.audio_channels, frames * hop), np.float32)
    for row, out in zip(latents, audio, strict=True):
        for start in starts(frames, size, shared):
            stop = min(start + size, frames)
            first = start + shared // 2 if start else 0
            last = stop - shared // 2 if stop < frames else stop
            sound = run(row[None, start:stop])
            out[:, first * hop : last * hop] = sound[0, :, (first - start) * hop : (last - start) * hop]
    return audio
