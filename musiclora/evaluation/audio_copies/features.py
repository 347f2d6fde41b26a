"""Frames of a recording that the audio copy meter compares: log-mel bands and chroma."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from musiclora.errors import DataError
from musiclora.evaluation.audio_features import (
    ANALYSIS_RATE,
    HOP,
    level_gain,
    log_mel,
    resample_mono,
    stft_magnitudes,
)

POOLED = 4  # frames of 512 samples averaged into one: a note lasts longer, and pairs of frames cost time
FRAMES_PER_SECOND = ANALYSIS_RATE / (HOP * POOLED)  # 10.8
WINDOW_FRAMES = 22  # 2.04 s: about a bar; shorter windows of unrelated music agree by chance
MEL_BANDS = 32


@dataclass(frozen=True, eq=False)
class Frames:
    """Features of one recording.

    Attributes:
        name: the recording's file name.
        source: the recording that the file was cut from, else its path.
        mel: float32 [T, 32], log-mel bands in dB.
        chroma: float32 [T, 12], energy of the pitch classes, square root.
    """

    name: str
    source: str
    mel: np.ndarray
    chroma: np.ndarray

    def __len__(self) -> int:
        return len(self.mel)


def frame_features(name: str, audio: np.ndarray, rate: int, source: str = "") -> Frames:
    """Compute the frames of a recording.

    Args:
        name: the recording's file name.
        audio: float [channels, N] or [N].
        rate: its sample rate in Hz.
        source: the recording that it was cut from; its name where empty.

    Raises:
        DataError: it holds NaN or infinity, is silent, or shorter than a window of 2.04 s.
    """
    from librosa import feature

    samples = resample_mono(audio, rate)
    power = stft_magnitudes(level_gain(samples) * samples) ** 2
    mel = log_mel(power)
    bands = mel.reshape(MEL_BANDS, -1, mel.shape[1]).mean(axis=1)
    chroma = np.sqrt(feature.chroma_stft(S=power, sr=ANALYSIS_RATE, tuning=0.0))
    frames = Frames(name, source or name, _pool(bands), _pool(chroma))
    if len(frames) < WINDOW_FRAMES:
        window = WINDOW_FRAMES / FRAMES_PER_SECOND
        raise DataError(
            f"is {len(frames) / FRAMES_PER_SECOND:.2f} s long; copies are found in windows of {window:.2f} s"
        )
    return frames


def _pool(rows: np.ndarray) -> np.ndarray:
    """Average POOLED frames at a time: [B, T] to float32 [T // 4, B]."""
    whole = rows.shape[1] // POOLED
    pooled: np.ndarray = rows[:, : whole * POOLED].reshape(len(rows), whole, POOLED).mean(axis=2).T
    return np.ascontiguousarray(pooled, np.float32)
