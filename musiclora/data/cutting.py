"""Cut recordings into segments of one length, or at given times, with a manifest that says where each comes from."""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.files import atomic_folder, write_json
from musiclora.data.audio import library, recordings_of
from musiclora.data.cut_times import Piece, given_times, grid
from musiclora.data.stretches import SoundInfo, counted, is_clipped, is_silent, read_stretch, sound_info
from musiclora.errors import ConfigError, DataError, listed
from musiclora.results import Reporter

RATE, CHANNELS = 44100, 2
MANIFEST = "manifest.json"
PEAK = 10 ** (-1 / 20)  # no sample is louder than -1 dB of full scale after --loudness
LONGEST = 1800.0  # seconds of one segment


@dataclass(frozen=True)
class CutOptions:
    """How recordings are cut.

    Attributes:
        seconds: length of a segment; what a DiffRhythm model of 2048 frames hears.
        overlap: seconds that a segment shares with the one before.
        leftover: `keep`: the rest at the end of a recording is a segment of its own; `merge`: it is added to the last
            one. A rest under a second is always merged. A recording shorter than a segment is one segment.
        fade: milliseconds of a raised cosine where a cut goes through the music; 0 for none.
        loudness: root mean square that each segment is brought to, in dB of full scale; None leaves it as it is.
        flac: write FLAC in place of WAV, both with 16 bits.
    """

    seconds: float = 95.0
    overlap: float = 0.0
    leftover: str = "keep"
    fade: float = 10.0
    loudness: float | None = None
    flac: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.seconds <= LONGEST:
            problems.append(f"--seconds is {self.seconds:g}; it must be 1 to {LONGEST:g}")
        elif not 0 <= self.overlap <= self.seconds / 2:
            problems.append(f"--overlap is {self.overlap:g}; it must be 0 to half of --seconds")
        if not 0 <= self.fade <= 500:
            problems.append(f"--fade is {self.fade:g}; it must be 0 to 500 milliseconds")
        if self.loudness is not None and not -60 <= self.loudness <= 0:
            problems.append(f"--loudness is {self.loudness:g}; it must be -60 to 0 dB of full scale")
        if self.leftover not in ("keep", "merge"):
            problems.append(f"--leftover is {self.leftover}; it must be keep or merge")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class CutResult:
    """What was written, and what the user should know.

    Attributes:
        segments: `file`, `source`, `start`, `end` (seconds in the source) and `sha256` of each.
        left_out: `source`, `start`, `end` and `reason` of what was not written.
        notes: lines for people.
    """

    segments: list[dict[str, Any]]
    left_out: list[dict[str, Any]]
    notes: list[str]


def cut_folder(
    folder: Path, output: Path, options: CutOptions, times: Path | None = None, reporter: Reporter | None = None
) -> CutResult:
    """Cut every recording of a folder into stereo segments of 44.1 kHz with 16 bits, one at a time in memory.

    The output folder appears whole or not at all.

    Args:
        folder: searched with its subfolders; only read.
        output: new folder of segments and `manifest.json`.
        options: how.
        times: file of times to cut at in place of one length; see `cut_times.given_times`.
        reporter: told what happens.

    Raises:
        ConfigError, DataError: nothing to cut, nothing that can be read, or times that do not fit.
        OutputError: the output folder exists, or cannot be written.
    """
    out, (files, foreign) = reporter or Reporter(), recordings_of(folder)
    problems = [f"{path}: is in a format that is not read; convert it to WAV or FLAC" for path in foreign]
    known: dict[Path, SoundInfo] = {}
    for path in files:
        try:
            known[path] = sound_info(path)
        except DataError as error:
            problems.append(str(error))
    if not known:
        raise DataError(f"{folder}: no recording can be read: {listed(problems)}")
    lengths = {path.relative_to(folder).as_posix(): info.seconds for path, info in known.items()}
    pieces = given_times(times, lengths) if times else _all_pieces(lengths, options)
    with atomic_folder(output) as temporary, out.task("cutting") as update:
        work = _Work(folder, temporary, options, {path.relative_to(folder).as_posix(): i for path, i in known.items()})
        for number, piece in enumerate(pieces, 1):
            work.cut(piece)
            update(number, len(pieces))
        if not work.segments:
            raise DataError(f"{folder}: no segment is left: {listed([item['reason'] for item in work.left_out])}")
        settings = {**asdict(options), "times": times is not None, "sample_rate": RATE}
        write_json(temporary / MANIFEST, {
            "format": 1, "settings": settings, "segments": work.segments, "left_out": work.left_out,
        })  # fmt: skip
    return CutResult(work.segments, work.left_out, [f"left out: {text}" for text in problems] + work.notes())


def _all_pieces(lengths: dict[str, float], options: CutOptions) -> list[Piece]:
    return [
        Piece(source, start, end)
        for source, seconds in lengths.items()
        for start, end in grid(seconds, options.seconds, options.overlap, options.leftover)
    ]


class _Work:
    """Writes segments one after the other and remembers what became of them."""

    def __init__(self, folder: Path, output: Path, options: CutOptions, infos: dict[str, SoundInfo]) -> None:
        self.folder, self.output, self.options, self.infos = folder, output, options, infos
        self.segments: list[dict[str, Any]] = []
        self.left_out: list[dict[str, Any]] = []
        self._clipped: dict[str, None] = {}
        self._short: dict[str, None] = {}
        self._names = _names(infos)
        self._counts: dict[str, int] = {}

    def cut(self, piece: Piece) -> None:
        """Write one segment, or say why not."""
        info = self.infos[piece.source]
        where = {"source": piece.source, "start": round(piece.start, 4), "end": round(piece.end, 4)}
        try:
            audio = read_stretch(self.folder / piece.source, info, piece.start, piece.end, RATE, CHANNELS)
        except DataError as error:
            self.left_out.append({**where, "reason": str(error)})
            return
        wanted = round((piece.end - piece.start) * RATE)
        if audio.shape[1] < wanted - RATE // 100:
            self._short[piece.source] = None
            where["end"] = round(piece.start + audio.shape[1] / RATE, 4)
        if is_silent(audio):
            reason = "silent" if audio.shape[1] else "the file ends before it"
            self.left_out.append({**where, "reason": f"{piece.source} at {piece.start:g} s: {reason}"})
            return
        if is_clipped(audio):
            self._clipped[piece.source] = None
        audio = faded(levelled(audio[:, :wanted], self.options.loudness), self.options.fade, piece.start > 0,
                      piece.end < info.seconds)  # fmt: skip
        name = self._name(piece)
        self.segments.append({"file": name, **where, "sha256": self._write(self.output / name, audio)})

    def _name(self, piece: Piece) -> str:
        stem = piece.name or self._names[piece.source]
        self._counts[stem] = self._counts.get(stem, 0) + 1
        number = f"-{self._counts[stem]:03d}" if not piece.name or self._counts[stem] > 1 else ""
        return f"{stem}{number}.{'flac' if self.options.flac else 'wav'}"

    def _write(self, path: Path, audio: np.ndarray) -> str:
        whole = np.round(np.clip(audio.T, -1, 1) * 32767).astype(np.int16)
        # Through memory: a full disk is then an OSError and not one of libsndfile's.
        buffer = io.BytesIO()
        library()[0].write(buffer, whole, RATE, format=path.suffix[1:].upper(), subtype="PCM_16")
        path.write_bytes(buffer.getbuffer())
        return hashlib.sha256(buffer.getbuffer()).hexdigest()

    def notes(self) -> list[str]:
        """What the user should know of all that was cut."""
        return [
            *counted([item["reason"] for item in self.left_out], "segments left out"),
            *counted(list(self._clipped), "recordings are clipped (distorted where they are loudest)"),
            *counted(list(self._short), "recordings end before they say they do"),
        ]


def _names(infos: dict[str, SoundInfo]) -> dict[str, str]:
    """A file name for each source: its path without ending, with it where two would be alike."""
    flat = {source: str(Path(source).with_suffix("")).replace("/", "_").replace("\\", "_") for source in infos}
    common = {stem for stem in flat.values() if list(flat.values()).count(stem) > 1}
    return {s: f"{stem}_{Path(s).suffix[1:].lower()}" if stem in common else stem for s, stem in flat.items()}


def levelled(audio: np.ndarray, loudness: float | None) -> np.ndarray:
    """Audio [channels, N] at a root mean square in dB of full scale, or less where peaks would exceed -1 dB."""
    if loudness is None:
        return audio
    size, peak = float(np.sqrt(np.square(audio, dtype=np.float64).mean())), float(np.abs(audio).max())
    gain = min(10 ** (loudness / 20) / size, PEAK / peak)
    return audio * np.float32(gain)


def faded(audio: np.ndarray, milliseconds: float, begin: bool, end: bool) -> np.ndarray:
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


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Segments of a folder that `cut` wrote, by file name; empty where there is no manifest.

    Raises:
        DataError: a damaged manifest.
    """
    import json

    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        items = json.loads(path.read_text(encoding="utf-8"))["segments"]
        return {str(i["file"]): {"source": str(i["source"]), "start": float(i["start"]), "end": float(i["end"])}
                for i in items}  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is no manifest of musiclora cut ({error})") from error
