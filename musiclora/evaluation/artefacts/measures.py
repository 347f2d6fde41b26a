"""Artefact measures of one recording, at its own sampling rate and with its own channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from musiclora.errors import DataError
from musiclora.evaluation.artefacts.clicks import count_clicks
from musiclora.evaluation.artefacts.clipping import clipped_share

HIGH_HERTZ = 10_000
SHORTEST_SECONDS = 0.5
_FRAME_SECONDS = 0.05
_SILENT_DB = -60.0  # of full scale; below the noise of a quiet room at usual playback levels
_ZERO_RMS = 1e-5  # -100 dB of full scale, a third of a step of 16 bits; such frames are digital silence
_QUIET_QUANTILE = 0.05
_WINDOW, _WINDOWS_AT_ONCE = 4096, 256


@dataclass(frozen=True)
class Artefacts:
    """Artefact measures of one recording.

    Attributes:
        rate: sampling rate in Hz.
        clicks_per_minute: see `count_clicks`.
        noise_floor_db: level of the quietest twentieth of the frames of 50 ms in dB of full scale (root mean square),
            without frames of digital silence; None where all are.
        energy_above_10khz: share of the energy above 10 kHz; None where the rate is too low, or there is no energy.
        clipped: share of samples on flat tops or beyond full scale.
        silence: share of the time below -60 dB of full scale.
    """

    rate: int
    clicks_per_minute: float
    noise_floor_db: float | None
    energy_above_10khz: float | None
    clipped: float
    silence: float


def measure_artefacts(audio: np.ndarray, rate: int, kind: str = "FLOAT") -> Artefacts:
    """Measure the artefacts of one recording.

    Args:
        audio: float [channels, N] or [N], 1 for full scale. A constant offset of a channel plays no part, except for
            clipping.
        rate: in Hz.
        kind: encoding of the file, such as PCM_16.

    Raises:
        DataError: it holds NaN or infinity, or is shorter than half a second.
    """
    samples = np.atleast_2d(audio)
    if not np.isfinite(samples).all():
        raise DataError("holds samples that are not numbers")
    seconds = samples.shape[1] / rate
    if seconds < SHORTEST_SECONDS:
        raise DataError(f"is {seconds:.4g} s long; at least {SHORTEST_SECONDS} s can be measured")
    centred = (samples - samples.mean(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
    levels = frame_levels(centred, rate)
    sounding = levels[levels > _ZERO_RMS]
    return Artefacts(
        rate,
        60 * count_clicks(samples, rate) / seconds,
        20 * float(np.log10(np.quantile(sounding, _QUIET_QUANTILE))) if len(sounding) else None,
        high_energy(centred, rate),
        clipped_share(samples.T, kind),
        float((levels < 10 ** (_SILENT_DB / 20)).mean()),
    )


def frame_levels(samples: np.ndarray, rate: int) -> np.ndarray:
    """Compute the level of frames of 50 ms: the root mean square over all channels, without each frame's own offset.

    Args:
        samples: float [channels, N].
        rate: in Hz.

    Returns:
        float64 [N / frame], 1 for full scale.
    """
    size = max(1, round(_FRAME_SECONDS * rate))
    count = samples.shape[1] // size
    frames = samples[:, : count * size].reshape(len(samples), count, size)
    # An offset that comes and goes with the music would otherwise fill its rests.
    levels: np.ndarray = np.sqrt(np.mean(np.var(frames, axis=2, dtype=np.float64), axis=0))
    return levels


def high_energy(samples: np.ndarray, rate: int) -> float | None:
    """Compute the share of the energy above 10 kHz.

    Args:
        samples: float [channels, N] without a constant offset.
        rate: in Hz.

    Returns:
        A share of 0 to 1, from Hann windows of 4096 samples. None for a rate of 20 kHz or less, and for silence.
    """
    if rate <= 2 * HIGH_HERTZ:
        return None
    high = np.fft.rfftfreq(_WINDOW, 1 / rate) > HIGH_HERTZ
    window = np.hanning(_WINDOW).astype(np.float32)
    total = above = 0.0
    for channel in np.pad(samples, ((0, 0), (0, _WINDOW))):  # the last windows overlap the padding
        frames = np.lib.stride_tricks.sliding_window_view(channel, _WINDOW)[:: _WINDOW // 2]
        for at in range(0, len(frames), _WINDOWS_AT_ONCE):
            power = np.abs(np.fft.rfft(frames[at : at + _WINDOWS_AT_ONCE] * window)) ** 2
            total += float(power.sum())
            above += float(power[:, high].sum())
    return above / total if total else None
