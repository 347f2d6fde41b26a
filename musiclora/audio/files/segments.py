"""Segments of recordings: file names, level, fades at the cuts, and 16-bit files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from musiclora.audio.files.cut_times import CutSpan
from musiclora.audio.files.sound import audio_libraries, file_checksum
from musiclora.children.sound import sound_path
from musiclora.convert.files.atomic import write_error

RATE, CHANNELS = 44100, 2
TRUE_PEAK_LIMIT = 10 ** (-1 / 20)  # -1 dB of full scale; largest true peak after --loudness
_OVERSAMPLING = 4  # for true peaks between the samples, as in ITU-R BS.1770


class SegmentNames:
    """File names of segments: the recording's path without its ending and a number, or a given name."""

    def __init__(self, sources: Sequence[str], ending: str) -> None:
        flat = {source: _flatten_path(str(Path(source).with_suffix(""))) for source in sources}
        twice = {stem for stem in flat.values() if list(flat.values()).count(stem) > 1}
        self._stems = {s: _flatten_path(s.replace(".", "_")) if stem in twice else stem for s, stem in flat.items()}
        self._ending, self._used = ending, set[str]()

    def name_segment(self, piece: CutSpan) -> str:
        """Choose a name that differs from all others, also where case is ignored."""
        stem, number = piece.name or self._stems[piece.source], 1
        name = stem if piece.name else f"{stem}-001"
        while name.lower() in self._used:
            number += 1
            name = f"{stem}-{number:03d}"
        self._used.add(name.lower())
        return f"{name}.{self._ending}"


def _flatten_path(path: str) -> str:
    """Turn a path into one file name of at most 150 characters."""
    return re.sub(r'[/\\:*?"<>|\x00-\x1f\ud800-\udfff]', "_", path).strip(" .")[:150] or "recording"


def save_segment(path: Path, audio: np.ndarray) -> str:
    """Write a segment and return its SHA-256."""
    soundfile, _ = audio_libraries()
    whole = np.round(np.clip(audio.T, -1, 1) * 32767).astype(np.int16)
    try:
        soundfile.write(sound_path(path), whole, RATE, subtype="PCM_16")
    except (soundfile.SoundFileError, AssertionError) as error:  # soundfile asserts that all samples were written
        raise write_error(path, OSError(28, "the disk is full or refuses to write")) from error
    return file_checksum(path)


def normalise_loudness(audio: np.ndarray, loudness: float) -> tuple[np.ndarray, bool]:
    """Scale audio [channels, N] to a root mean square in dB of full scale; true peaks stay below -1 dB.

    Returns:
        The audio, and True where its peaks limit the level.
    """
    _, soxr = audio_libraries()
    size = float(np.sqrt(np.square(audio, dtype=np.float64).mean()))
    fine = soxr.resample(np.ascontiguousarray(audio.T), RATE, _OVERSAMPLING * RATE)
    peak = max(float(np.abs(fine).max(initial=0.0)), float(np.abs(audio).max()))
    wanted, most = 10 ** (loudness / 20) / size, TRUE_PEAK_LIMIT / peak
    return audio * np.float32(min(wanted, most)), most < wanted


def fade_ends(audio: np.ndarray, milliseconds: float, begin: bool, end: bool) -> np.ndarray:
    """Copy audio with raised-cosine fades at the beginning and the end, where these are cuts."""
    count = min(round(milliseconds * RATE / 1000), audio.shape[1] // 2)
    found = audio.copy()
    if count:
        ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / count)).astype(np.float32)
        if begin:
            found[:, :count] *= ramp
        if end:
            found[:, -count:] *= ramp[::-1]
    return found
