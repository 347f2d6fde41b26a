"""Segments of recordings: their names, their level, fades at their cuts, and how they are written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from musiclora.audio.files.cut_times import CutSpan
from musiclora.audio.files.sound import audio_libraries
from musiclora.convert.files.atomic import write_error

RATE, CHANNELS = 44100, 2
TRUE_PEAK_LIMIT = 10 ** (-1 / 20)  # no true peak is above -1 dB of full scale after --loudness
_OVERSAMPLING = 4  # true peaks are looked for between the samples, as in ITU-R BS.1770


class Names:
    """File names of segments: the recording's path without its ending, and a number; or the name that was given."""

    def __init__(self, sources: Sequence[str], ending: str) -> None:
        flat = {source: _plain(str(Path(source).with_suffix(""))) for source in sources}
        twice = {stem for stem in flat.values() if list(flat.values()).count(stem) > 1}
        self._stems = {s: _plain(s.replace(".", "_")) if stem in twice else stem for s, stem in flat.items()}
        self._ending, self._used = ending, set[str]()

    def of(self, piece: CutSpan) -> str:
        """A name that no other segment has, on file systems that ignore case either."""
        stem, number = piece.name or self._stems[piece.source], 1
        name = stem if piece.name else f"{stem}-001"
        while name.lower() in self._used:
            number += 1
            name = f"{stem}-{number:03d}"
        self._used.add(name.lower())
        return f"{name}.{self._ending}"


def _plain(path: str) -> str:
    """A path as one file name of at most 150 characters."""
    return re.sub(r'[/\\:*?"<>|\x00-\x1f\ud800-\udfff]', "_", path).strip(" .")[:150] or "recording"


def save_segment(path: Path, audio: np.ndarray) -> str:
    """Write a segment; its SHA-256."""
    soundfile, _ = audio_libraries()
    whole = np.round(np.clip(audio.T, -1, 1) * 32767).astype(np.int16)
    try:
        soundfile.write(path, whole, RATE, subtype="PCM_16")
    except (soundfile.SoundFileError, AssertionError) as error:  # soundfile asserts that all samples were written
        raise write_error(path, OSError(28, "the disk is full or refuses to write")) from error
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def normalise_loudness(audio: np.ndarray, loudness: float) -> tuple[np.ndarray, bool]:
    """Audio [channels, N] at a root mean square in dB of full scale, or less where true peaks would exceed -1 dB.

    Returns:
        The audio, and whether its peaks kept it below.
    """
    _, soxr = audio_libraries()
    size = float(np.sqrt(np.square(audio, dtype=np.float64).mean()))
    fine = soxr.resample(np.ascontiguousarray(audio.T), RATE, _OVERSAMPLING * RATE)
    peak = max(float(np.abs(fine).max(initial=0.0)), float(np.abs(audio).max()))
    wanted, most = 10 ** (loudness / 20) / size, TRUE_PEAK_LIMIT / peak
    return audio * np.float32(min(wanted, most)), most < wanted


def fade_ends(audio: np.ndarray, milliseconds: float, begin: bool, end: bool) -> np.ndarray:
    """A copy with raised-cosine fades at the beginning and the end, where these are cuts."""
    count = min(round(milliseconds * RATE / 1000), audio.shape[1] // 2)
    found = audio.copy()
    if count:
        ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / count)).astype(np.float32)
        if begin:
            found[:, :count] *= ramp
        if end:
            found[:, -count:] *= ramp[::-1]
    return found
