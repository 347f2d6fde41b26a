"""Levels of recordings: turned down where a codec would answer with latents far beyond those that it knows.

The latents of a codec for diffusion have a root mean square of about 1, since the network that learns them is trained
on such values. A small codec is not invariant to the level: dense music at full scale can have latents of 25 and more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from musiclora.audio.files.sound import Sound
from musiclora.backends.base import Codec
from musiclora.evaluation.scores import count_pieces

LARGE_LATENTS = 2.0  # root mean square from which on a recording is turned down
_USUAL_LATENTS = 1.0  # root mean square that the loudest then have
_EXCERPTS, _EXCERPT_FRAMES = 5, 64  # of a recording that its level is chosen by
_LOWEST_DB, _STEP_DB = -60, 0.5


def latents_size(latents: np.ndarray) -> float:
    """Compute the root mean square of latents."""
    return float(np.sqrt(np.square(latents, dtype=np.float64).mean())) if latents.size else 0.0


def wanted_size(size: float) -> float:
    """Return the root mean square that a recording's latents shall have, without a jump at LARGE_LATENTS.

    Recordings just above it are hardly turned down, so that the pieces of one folder do not fall into two levels.
    Further above it the size falls to 1, since a model knows very large latents no better when they are at 2.

    Args:
        size: root mean square at the recording's own level.
    """
    return size if size <= LARGE_LATENTS else max(_USUAL_LATENTS, LARGE_LATENTS**2 / size)


def choose_gain_db(path: Path, seconds: float, codec: Codec, size: float) -> float:
    """Choose the gain in dB, 0 or below, at which a recording's latents shrink to the size of `wanted_size`.

    Args:
        path: the recording.
        seconds: its length.
        codec: encodes five excerpts of it.
        size: root mean square of its latents at its own level.

    Returns:
        A multiple of 0.5 dB.
    """
    return _fitting_gain_db(_read_excerpts(path, seconds, codec), codec, size)


def lower_sound(sound: np.ndarray, latents: np.ndarray, codec: Codec) -> float:
    """Choose the gain in dB, 0 or below, at which a recording in memory is encoded; see `choose_gain_db`.

    Args:
        sound: float32 [channels, N] at the codec's rate.
        latents: its latents at its own level, which is kept unless they are large.
        codec: encodes five excerpts of it.
    """
    size = latents_size(latents)
    if size <= LARGE_LATENTS:
        return 0.0
    starts, length = _excerpt_starts(sound.shape[1], codec)
    return _fitting_gain_db([sound[:, start : start + length] for start in starts], codec, size)


def _fitting_gain_db(excerpts: Sequence[np.ndarray], codec: Codec, size: float) -> float:
    """Find the largest gain in dB below 0 at which excerpts' latents shrink to `wanted_size` of the whole's size."""
    if not excerpts:
        return 0.0
    wanted = _size_at(excerpts, codec, 0.0) * wanted_size(size) / size  # excerpts may be louder than the whole
    low, high = round(_LOWEST_DB / _STEP_DB), 0  # in steps; the size grows with the level
    while high - low > 1:
        middle = (low + high) // 2
        if _size_at(excerpts, codec, middle * _STEP_DB) > wanted:
            high = middle
        else:
            low = middle
    return low * _STEP_DB


def decibels_to_factor(decibels: float) -> np.float32:
    """Convert a gain in dB to a factor."""
    return np.float32(10 ** (decibels / 20))


def level_notes(gains_db: Sequence[float]) -> list[str]:
    """Say how many files are turned down; empty where none is.

    Args:
        gains_db: gain of each file in dB.
    """
    lowered = sorted(-gain for gain in gains_db if gain < 0)
    if not lowered:
        return []
    span = f"{lowered[0]:g}" if lowered[0] == lowered[-1] else f"{lowered[0]:g} to {lowered[-1]:g}"
    verb = "is" if len(lowered) == 1 else "are"
    found = f"{len(lowered)} of {count_pieces(len(gains_db), 'files')} {verb}"
    return [
        f"{found} encoded {span} dB quieter: at their own level they are "
        "too loud for this codec, whose latents of them would be too large"
    ]


def _size_at(excerpts: Sequence[np.ndarray], codec: Codec, gain_db: float) -> float:
    """Compute the root mean square of the posterior means of excerpts at a gain."""
    factor = decibels_to_factor(gain_db)
    means = [codec.encode(audio[None] * factor)[0] for audio in excerpts]
    return latents_size(np.concatenate([mean.ravel() for mean in means]))


def _excerpt_starts(total: int, codec: Codec) -> tuple[list[int], int]:
    """Choose where the excerpts of a recording of `total` samples begin, and their length in samples."""
    size = _EXCERPT_FRAMES * codec.hop
    count = max(1, min(_EXCERPTS, total // size))
    return [int(at) for at in np.linspace(0, max(0, total - size), count)], size


def _read_excerpts(path: Path, seconds: float, codec: Codec) -> list[np.ndarray]:
    """Read excerpts at even distances, float32 [channels, n] each; the whole of a short recording."""
    starts, size = _excerpt_starts(int(seconds * codec.sample_rate), codec)
    parts: list[list[np.ndarray]] = [[] for _ in starts]
    position = 0
    with Sound(path) as sound:
        for block in sound.stream(codec.sample_rate, codec.audio_channels):
            for start, part in zip(starts, parts, strict=True):
                first, last = max(0, start - position), min(len(block), start + size - position)
                if first < last:
                    part.append(block[first:last])
            position += len(block)
    found = [np.ascontiguousarray(np.concatenate(part).T) for part in parts if part]
    return [audio for audio in found if audio.shape[1] >= codec.hop]
