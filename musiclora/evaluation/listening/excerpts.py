"""Excerpts of music for a listening test: a place to cut, fades, a common loudness, MP3."""

from __future__ import annotations

import inspect
import io
import math
from collections.abc import Sequence

import numpy as np

from musiclora.errors import ConfigError, DataError
from musiclora.evaluation.listening.loudness import common_level, integrated_loudness, true_peak

RATE_HZ = 44100
SHORTEST_SECONDS = 2.0
SILENT_LUFS = -60.0
FADE_IN_SECONDS, FADE_OUT_SECONDS = 0.03, 0.4
_FRAME_SECONDS = 0.05
_SILENT_FRAME_DB = -50.0  # below the loudest frame
_MOST_SILENCE = 0.1  # of an excerpt
_QUIET_STARTS = 0.2  # share of the possible starts that count as quiet: between phrases rather than within one
_MP3_COMPRESSION = 0.7  # of libsndfile: 112 kbit/s, constant, so that all excerpts have one size


def trim_silence(audio: np.ndarray) -> np.ndarray:
    """Return mono audio [samples] without the silence at its ends; empty where all is silent."""
    loud = np.flatnonzero(_is_loud(_frame_levels(audio)))
    if not len(loud):
        return audio[:0]
    frame = round(_FRAME_SECONDS * RATE_HZ)
    return audio[loud[0] * frame : (loud[-1] + 1) * frame]


def choose_start(audio: np.ndarray, seconds: float, rng: np.random.Generator) -> float:
    """Draw a start among the quiet moments that are followed by little silence.

    Args:
        audio: mono, float [samples], RATE_HZ.
        seconds: length of the excerpt.
        rng: draws.

    Returns:
        Seconds from the beginning; 0 where the audio is not longer than the excerpt.
    """
    levels = _frame_levels(audio)
    length = math.ceil(seconds / _FRAME_SECONDS)
    starts = np.arange(len(levels) - length + 1)
    if len(starts) < 2:
        return 0.0
    silence = np.concatenate([[0], np.cumsum(~_is_loud(levels))])
    share = (silence[starts + length] - silence[starts]) / length
    starts = starts[share <= max(_MOST_SILENCE, share.min())]
    before = np.where(starts > 0, levels[np.maximum(starts - 1, 0)], -math.inf)  # the very beginning is quiet
    quiet = starts[before <= np.quantile(before, _QUIET_STARTS)]
    return float(rng.choice(quiet)) * _FRAME_SECONDS


def _frame_levels(audio: np.ndarray) -> np.ndarray:
    """Return the level of each frame of 50 ms in dB, float64 [frames]."""
    frame = round(_FRAME_SECONDS * RATE_HZ)
    whole = np.asarray(audio[: len(audio) // frame * frame], np.float64).reshape(-1, frame)
    levels: np.ndarray = 10 * np.log10(np.square(whole).mean(axis=1) + 1e-12)
    return levels


def _is_loud(levels: np.ndarray) -> np.ndarray:
    loud: np.ndarray = levels > max(levels.max(initial=-math.inf) + _SILENT_FRAME_DB, -90.0)
    return loud


def cut_excerpt(audio: np.ndarray, start: float, seconds: float) -> np.ndarray:
    """Return a part of mono audio with short raised-cosine fades, float32 [seconds * RATE_HZ].

    Raises:
        DataError: the audio ends before, or the part is silent.
    """
    first, samples = round(start * RATE_HZ), round(seconds * RATE_HZ)
    part = np.array(audio[first : first + samples], np.float32)
    if len(part) < samples:
        raise DataError(f"is {len(audio) / RATE_HZ:.1f} s long, too short for {seconds:.1f} s from {start:.1f} s")
    for length, at_end in ((FADE_IN_SECONDS, False), (FADE_OUT_SECONDS, True)):
        ramp = np.sin(np.linspace(0, np.pi / 2, round(length * RATE_HZ), dtype=np.float32)) ** 2
        if at_end:
            part[-len(ramp) :] *= ramp[::-1]
        else:
            part[: len(ramp)] *= ramp
    if integrated_loudness(part[None], RATE_HZ) < SILENT_LUFS:
        raise DataError("is silent there")
    return part


def match_loudness(excerpts: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[float], float]:
    """Give excerpts one loudness at which none clips.

    Args:
        excerpts: mono, float32 [samples] each, none silent.

    Returns:
        The excerpts, their gains in dB, and the loudness in LUFS.
    """
    loudness = [integrated_loudness(part[None], RATE_HZ) for part in excerpts]
    level = common_level(loudness, [true_peak(part) for part in excerpts])
    gains = [level - own for own in loudness]
    return [part * np.float32(10 ** (gain / 20)) for part, gain in zip(excerpts, gains, strict=True)], gains, level


def need_mp3() -> None:
    """Check that excerpts can be compressed.

    Raises:
        ConfigError: soundfile is not installed, is too old, or its libsndfile has no MP3.
    """
    advice = "listening tests need soundfile 0.13 or newer, with MP3; try: pip install 'musiclora[audio]'"
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the wheel brings no libsndfile for this system
        raise ConfigError(advice) from error
    has_bitrate = "bitrate_mode" in inspect.signature(soundfile.write).parameters
    if not has_bitrate or "MP3" not in soundfile.available_formats():
        raise ConfigError(advice)


def encode_mp3(excerpts: Sequence[np.ndarray]) -> list[bytes]:
    """Compress mono excerpts of one length; all results have the same size."""
    import soundfile

    coded = []
    for part in excerpts:
        buffer = io.BytesIO()
        soundfile.write(
            buffer,
            part,
            RATE_HZ,
            format="MP3",
            subtype="MPEG_LAYER_III",
            bitrate_mode="CONSTANT",
            compression_level=_MP3_COMPRESSION,
        )
        coded.append(buffer.getvalue())
    size = max(map(len, coded))
    return [data.ljust(size, b"\0") for data in coded]  # a decoder skips what follows the last frame
