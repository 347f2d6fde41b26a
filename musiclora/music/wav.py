"""16-bit PCM WAV files by the standard library, for code that must not need soundfile."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import BinaryIO

import numpy as np

_PEAK = 32767  # largest sample that is written, so that both signs clip alike


def read_wav(source: Path | BinaryIO) -> tuple[np.ndarray, int]:
    """Read a file as float32 [N, channels] in [-1, 1), and its sample rate in Hz."""
    with wave.open(str(source) if isinstance(source, Path) else source) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
        return frames.reshape(-1, file.getnchannels()), file.getframerate()


def write_wav(target: Path | BinaryIO, audio: np.ndarray, rate: int, full_scale: int = _PEAK) -> None:
    """Write float audio, rounded and clipped.

    Args:
        target: file to write.
        audio: float [N, channels].
        rate: sample rate in Hz.
        full_scale: sample that 1.0 becomes; 32768 inverts `read_wav` exactly.
    """
    samples = np.round(np.clip(audio * full_scale, -_PEAK, _PEAK)).astype("<i2")
    with wave.open(str(target) if isinstance(target, Path) else target, "wb") as file:
        file.setnchannels(audio.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
