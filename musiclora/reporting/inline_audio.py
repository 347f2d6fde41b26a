"""WAV files reduced for embedding in a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from musiclora.music.wav import read_wav, write_wav

AUDIO_BYTES = 6_000_000  # of base64 for a whole page
_RATES_HZ = (22050, 14700, 11025)


def small_waves(paths: Sequence[Path]) -> list[bytes]:
    """Reduce WAV files to mono at the best rate that fits into AUDIO_BYTES; fade out those still too long."""
    recordings = [(audio.mean(axis=1), rate) for audio, rate in map(read_wav, paths)]
    seconds = sum(len(audio) / rate for audio, rate in recordings)
    wanted = next((r for r in _RATES_HZ if seconds * r * 2 * 4 / 3 <= AUDIO_BYTES), _RATES_HZ[-1])
    longest = AUDIO_BYTES * 3 / 4 / 2 / wanted / max(1, len(paths))
    if seconds * wanted * 2 * 4 / 3 <= AUDIO_BYTES:
        longest = seconds
    return [_small_wave(audio, rate, wanted, longest) for audio, rate in recordings]


def _small_wave(audio: np.ndarray, rate: int, wanted: int, seconds: float) -> bytes:
    step = max(1, round(rate / wanted))
    taps = np.sinc(np.arange(-16 * step, 16 * step + 1) / step * 0.92) * np.hanning(32 * step + 1)
    audio = np.convolve(audio, taps / taps.sum(), "same")[::step]
    rate = rate // step
    if len(audio) > seconds * rate:
        audio = audio[: int(seconds * rate)]
        fade = min(len(audio), rate)
        audio[len(audio) - fade :] *= np.linspace(1, 0, fade)
    buffer = io.BytesIO()
    write_wav(buffer, audio[:, None], rate, full_scale=32768)
    return buffer.getvalue()
