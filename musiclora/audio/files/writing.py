"""From latents to sound files: decoding in chunks, peak normalisation, 16-bit WAV and FLAC."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from musiclora.backends.base import Codec
from musiclora.convert.files.atomic import atomic_write
from musiclora.errors import ConfigError, DataError

AUDIO_OUTPUT_FORMATS = {".wav": "WAV", ".flac": "FLAC"}
CHUNK, OVERLAP = 128, 32  # latent frames decoded at once; the decoder reaches less than half the overlap
_SILENCE = 1e-6  # a peak below the smallest step of 20 bits


def decode_latents(codec: Codec, latents: np.ndarray) -> np.ndarray:
    """Audio float32 [channels, samples] of latents [T, C], in chunks where they are long."""
    chunk = CHUNK if len(latents) > CHUNK else None
    audio: np.ndarray = codec.decode(latents[None], chunk, OVERLAP if chunk else None)[0]
    return audio


def normalise_peak(audio: np.ndarray) -> tuple[np.ndarray, bool]:
    """Audio with a peak of 1, and whether it was silence, which stays as it is."""
    peak = float(np.abs(audio).max(initial=0.0))
    if not np.isfinite(peak):
        raise DataError("the codec made values that are not finite; look for damaged weights with another --vae")
    return (audio, True) if peak < _SILENCE else (audio / np.float32(peak), False)


def write_audio(path: Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write float audio [channels, samples] with 16 bits; the file appears whole or not at all.

    Raises:
        ConfigError: soundfile is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise ConfigError("writing audio needs soundfile; try: pip install 'musiclora[audio]'") from error
    whole = (np.clip(audio, -1, 1) * 32767).astype(np.int16)  # truncated, as in the original
    buffer = io.BytesIO()
    soundfile.write(buffer, whole.T, sample_rate, format=AUDIO_OUTPUT_FORMATS[path.suffix.lower()], subtype="PCM_16")
    atomic_write(path, buffer.getvalue())
