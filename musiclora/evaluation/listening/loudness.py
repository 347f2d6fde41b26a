"""Integrated loudness of ITU-R BS.1770-4 and a common level for excerpts.

Source: ITU-R BS.1770-4 (2015), annex 1; filters for other sample rates as re-derived by De Man 2014, "Evaluation of
implementations of the EBU R128 loudness measurement".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

TARGET_LUFS = -20.0  # between the -23 of broadcasting and the -14 of streaming: few pieces of music would clip
PEAK_LIMIT_DB = -1.5  # true peak; a lossy codec overshoots by some tenths of a decibel
BLOCK_SECONDS, BLOCK_OVERLAP = 0.4, 0.75
ABSOLUTE_GATE_LUFS, RELATIVE_GATE_LU = -70.0, -10.0
OFFSET_LUFS = -0.691  # makes a full-scale sine of 997 Hz in one channel -3.01
_FILTER_TAIL_SECONDS = 1.0  # the 38 Hz high-pass has decayed by far more than 100 dB
_OVERSAMPLING = 4


def k_weighting(rate: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the two biquads of the K-weighting as (numerator, denominator), each float64 [3].

    Args:
        rate: sample rate in Hz; at 48 kHz the coefficients are those of the standard's tables 1 and 2.
    """
    shelf_hz, shelf_db, shelf_q = 1681.974450955533, 3.999843853973347, 0.7071752369554196
    k = math.tan(math.pi * shelf_hz / rate)
    high = 10 ** (shelf_db / 20)
    band = high**0.4996667741545416
    scale = 1 + k / shelf_q + k * k
    shelf = (
        np.array([high + band * k / shelf_q + k * k, 2 * (k * k - high), high - band * k / shelf_q + k * k]) / scale,
        np.array([1, 2 * (k * k - 1) / scale, (1 - k / shelf_q + k * k) / scale]),
    )
    pass_hz, pass_q = 38.13547087602444, 0.5003270373238773
    k = math.tan(math.pi * pass_hz / rate)
    scale = 1 + k / pass_q + k * k
    high_pass = (
        np.array([1.0, -2.0, 1.0]),
        np.array([1, 2 * (k * k - 1) / scale, (1 - k / pass_q + k * k) / scale]),
    )
    return [shelf, high_pass]


def integrated_loudness(audio: np.ndarray, rate: int) -> float:
    """Measure the gated loudness of audio.

    Args:
        audio: float [channels, samples], one or two channels of weight 1; full scale is 1.
        rate: sample rate in Hz.

    Returns:
        LUFS; minus infinity where no block of 400 ms exceeds -70 LUFS.
    """
    block = round(BLOCK_SECONDS * rate)
    if audio.shape[-1] < block:
        return -math.inf
    power = np.square(_weight(np.asarray(audio, np.float64), rate)).sum(axis=0)
    sums = np.concatenate([[0.0], np.cumsum(power)])
    starts = np.arange(0, len(power) - block + 1, round(block * (1 - BLOCK_OVERLAP)))
    blocks = np.maximum(sums[starts + block] - sums[starts], 0) / block
    gated = blocks[blocks > _power(ABSOLUTE_GATE_LUFS)]
    if not len(gated):
        return -math.inf
    gated = gated[gated > gated.mean() * 10 ** (RELATIVE_GATE_LU / 10)]
    return float(OFFSET_LUFS + 10 * np.log10(gated.mean()))


def _power(lufs: float) -> float:
    return float(10 ** ((lufs - OFFSET_LUFS) / 10))


def _weight(audio: np.ndarray, rate: int) -> np.ndarray:
    """Apply the K-weighting by its frequency response; zeros behind the audio take up the filters' tail."""
    samples = audio.shape[-1]
    size = 1 << (samples + round(_FILTER_TAIL_SECONDS * rate) - 1).bit_length()
    delay = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    response = np.ones_like(delay)
    for numerator, denominator in k_weighting(rate):
        response *= np.polyval(numerator[::-1], delay) / np.polyval(denominator[::-1], delay)
    filtered: np.ndarray = np.fft.irfft(np.fft.rfft(audio, size) * response, size)[..., :samples]
    return filtered


def true_peak(audio: np.ndarray) -> float:
    """Estimate the largest absolute value between samples, by oversampling four times (BS.1770-4, annex 2)."""
    samples = audio.shape[-1]
    fine = np.fft.irfft(np.fft.rfft(audio), _OVERSAMPLING * samples) * _OVERSAMPLING
    return float(max(np.abs(fine).max(initial=0.0), np.abs(audio).max(initial=0.0)))


def common_level(loudness: Sequence[float], peaks: Sequence[float]) -> float:
    """Find the loudness that all excerpts can have without clipping.

    Args:
        loudness: of each excerpt, LUFS.
        peaks: true peak of each, full scale is 1.

    Returns:
        TARGET_LUFS, or less where the peak of an excerpt would exceed PEAK_LIMIT_DB.
    """
    highest = (own + PEAK_LIMIT_DB - 20 * math.log10(peak) for own, peak in zip(loudness, peaks, strict=True))
    return min(TARGET_LUFS, *highest)
