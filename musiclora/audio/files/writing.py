"""Decoding of latents in chunks, peak normalisation, and 16-bit WAV and FLAC files."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np

from musiclora.backends.base import Codec
from musiclora.convert.files.atomic import atomic_write
from musiclora.errors import ConfigError, DataError

AUDIO_OUTPUT_FORMATS = {".wav": "WAV", ".flac": "FLAC"}
CHUNK_FRAMES, OVERLAP_FRAMES = 128, 32  # the decoder's receptive field is less than half the overlap
SILENT_PEAK = 1e-6  # the smallest step of 20 bits


def decode_latents(codec: Codec, latents: np.ndarray) -> np.ndarray:
    """Decode latents [T, C] into audio float32 [channels, samples], in chunks where they are long."""
    chunk = CHUNK_FRAMES if len(latents) > CHUNK_FRAMES else None
    audio: np.ndarray = codec.decode(latents[None], chunk, OVERLAP_FRAMES if chunk else None)[0]
    return audio


def normalise_peak(audio: np.ndarray, wanted: float = 1.0) -> tuple[np.ndarray, bool]:
    """Scale audio to a peak.

    Returns:
        The audio, and True for silence, which stays unchanged.

    Raises:
        DataError: values that are not finite.
    """
    peak = measure_peak(audio)
    return (audio, True) if peak < SILENT_PEAK else (audio / np.float32(peak) * np.float32(wanted), False)


def measure_peak(audio: np.ndarray) -> float:
    """Compute the largest absolute value.

    Raises:
        DataError: values that are not finite.
    """
    peak = float(np.abs(audio).max(initial=0.0))
    if not np.isfinite(peak):
        raise DataError("the codec made values that are not finite; look for damaged weights with another --vae")
    return peak


def need_soundfile() -> None:
    """Check that recordings can be written.

    Raises:
        ConfigError: soundfile is not installed.
    """
    if importlib.util.find_spec("soundfile") is None:
        raise ConfigError("writing audio needs soundfile; try: pip install 'musiclora[audio]'")


def write_audio(
    path: Path, audio: np.ndarray, sample_rate: int, *, same_samples: bool = False, overwrite: bool = True
) -> None:
    """Write float audio [channels, samples] with 16 bits, atomically.

    Args:
        path: ends in .wav or .flac.
        audio: full scale is 1.
        sample_rate: in Hz.
        same_samples: round to the steps of a file of 16 bits, so that samples read from one are written unchanged.
        overwrite: replace a file that exists.

    Raises:
        ConfigError: soundfile is not installed.
        OutputError: the file exists and overwrite is off, or the system refuses to write.
    """
    need_soundfile()
    import soundfile

    if same_samples:
        whole = np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)
    else:
        whole = (np.clip(audio, -1, 1) * 32767).astype(np.int16)  # truncated, as in DiffRhythm's inference code
    buffer = io.BytesIO()
    soundfile.write(buffer, whole.T, sample_rate, format=AUDIO_OUTPUT_FORMATS[path.suffix.lower()], subtype="PCM_16")
    atomic_write(path, buffer.getvalue(), overwrite=overwrite)
