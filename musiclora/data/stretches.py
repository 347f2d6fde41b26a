"""Stretches of recordings as float32 arrays, and what is heard in them: no recording need fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclora.data.audio import Sound, library, with_channels
from musiclora.errors import DataError

SILENT = 1e-4  # largest absolute value of what counts as silence, -80 dB of full scale
LOUDEST = 64.0  # times full scale: a float file beyond it is mislabelled or damaged
_FULL = 0.9999  # of full scale: where clipping begins
_CLIPPED = 1e-4  # share of samples at full scale from which a recording counts as clipped
_BLOCK = 1 << 13  # frames read at one time: a damaged file is used up to the block that cannot be read


@dataclass(frozen=True)
class SoundInfo:
    """What a file says of itself: sample rate in Hz, channels, length in samples."""

    rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """Length."""
        return self.frames / self.rate


def sound_info(path: Path) -> SoundInfo:
    """Rate, channels and length of a recording.

    Raises:
        ConfigError: soundfile or soxr is not installed.
        DataError: the file cannot be read as a recording, or is empty.
    """
    with Sound(path) as sound:
        if sound.claimed < 1:
            raise DataError(f"{path}: holds no sound")
        return SoundInfo(sound.rate, sound.channels, sound.claimed)


def read_stretch(path: Path, info: SoundInfo, start: float, end: float, rate: int, channels: int = 2) -> np.ndarray:
    """Part of a recording as float32 [channels, samples] at a rate; mono is doubled, of more channels the first count.

    Args:
        path: the file.
        info: what it says of itself.
        start, end: in seconds; less comes back where the file ends or breaks off before.
        rate: in Hz.
        channels: of the result.

    Raises:
        ConfigError: soundfile or soxr is not installed.
        DataError: the file cannot be read, or holds values that are no sound.
    """
    _, soxr = library()
    first = round(start * info.rate)
    audio = _frames(path, first, round(end * info.rate) - first, info.channels)
    if not np.isfinite(audio).all() or np.abs(audio).max(initial=0.0) > LOUDEST:
        raise DataError(f"{path}: holds values that are no sound (not finite, or far beyond full scale)")
    audio = with_channels(audio, channels)
    if info.rate != rate and len(audio):
        audio = soxr.resample(np.ascontiguousarray(audio), info.rate, rate)
    return np.ascontiguousarray(audio.T, np.float32)


def _frames(path: Path, first: int, count: int, channels: int) -> np.ndarray:
    """Frames of a file as float32 [n, channels]; fewer where it ends or breaks off."""
    soundfile, _ = library()
    parts = [np.zeros((0, channels), np.float32)]
    try:
        with soundfile.SoundFile(path) as file:
            if first:
                file.seek(first)
            while count > 0:
                part = file.read(min(_BLOCK, count), dtype="float32", always_2d=True)
                if not len(part):
                    break
                parts.append(part)
                count -= len(part)
    except soundfile.SoundFileError:
        pass  # a file that breaks off: what was read before is used, and the caller sees that it is short
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return np.concatenate(parts)


def is_silent(audio: np.ndarray) -> bool:
    """Whether nothing is above -80 dB of full scale."""
    return bool(np.abs(audio).max(initial=0.0) < SILENT)


def is_clipped(audio: np.ndarray) -> bool:
    """Whether more than one sample of ten thousand stands at full scale."""
    return bool(audio.size and (np.abs(audio) >= _FULL).mean() > _CLIPPED)


def counted(names: Sequence[str], what: str) -> list[str]:
    """One line for any number of files: how many, and the first of them."""
    return [f"{len(names)} {what}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"] if names else []
