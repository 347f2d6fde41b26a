"""Health of recordings: measured in one pass, shown as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.audio.files.sound import Sound, audio_files, name_problem
from musiclora.convert.errors import printable
from musiclora.errors import DataError, list_names
from musiclora.evaluation.artefacts.clipping import FlatTops, clipped_samples

RECORDING_COLUMNS = ("file", "status", "seconds", "rate", "channels", "kind", "peak", "clipped", "why")
SILENT_PEAK = 1e-4  # of full scale, -80 dB; microphones are louder
_QUIET_PEAK = 10 ** (-30 / 20)  # of full scale; the latents of quieter music are nearly those of silence
CLIPPED_SHARE = 1e-4  # share of clipped samples that is reported
_LOW_RATE_HZ = 32000  # below it audible frequencies are missing


@dataclass(frozen=True)
class AudioHealth:
    """Health of one recording.

    Attributes:
        file: path inside the folder.
        problem: reason why it is unusable, else empty.
        notes: remarks on a usable one.
        seconds: length of the sound in the file, whatever its header says.
        frames: the same in samples, at its own rate.
        rate: in Hz.
        channels: as stored.
        kind: container and encoding.
        peak: largest absolute value, 1 for full scale.
        clipped: share of samples on flat tops or beyond full scale.
    """

    file: str
    problem: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    frames: int = 0
    rate: int = 0
    channels: int = 0
    kind: str = ""
    peak: float = 0.0
    clipped: float = 0.0

    @property
    def silent(self) -> bool:
        """True below -80 dB of full scale."""
        return self.peak < SILENT_PEAK


def measure_health(path: Path, name: str | None = None) -> AudioHealth:
    """Read a recording once and measure it; a damaged file is a result, not an error.

    Args:
        path: the file.
        name: its name in the result; None is the file's own.

    Raises:
        ConfigError: soundfile is not installed.
    """
    name = name or path.name
    if problem := name_problem(name):
        return AudioHealth(name, problem)
    try:
        with Sound(path) as sound:
            return _measure_sound(sound, name)
    except DataError as error:
        return AudioHealth(name, str(error).removeprefix(printable(f"{path}: ")))


def _measure_sound(sound: Sound, name: str) -> AudioHealth:
    peak, flat, problem, tops = 0.0, 0, "", FlatTops(sound.kind)
    try:
        for block in sound.blocks():
            peak = max(peak, float(np.abs(block).max()))
            flat += clipped_samples(block)
            tops.add(block)
    except DataError as error:
        problem = str(error).removeprefix(printable(f"{sound.path}: "))
    seconds = sound.read / sound.rate
    if not sound.read and not problem:
        problem = f"holds no sound{' (' + sound.cut_off + ')' if sound.cut_off else ''}"
    elif peak < SILENT_PEAK and not problem:
        problem = f"is silent (peak {to_decibels(peak):.0f} dB)"
    share = max(flat, tops.count) / max(1, sound.read * sound.channels)
    return AudioHealth(
        name,
        problem,
        _list_notes(sound, share, peak),
        seconds,
        sound.read,
        sound.rate,
        sound.channels,
        f"{sound.container} {sound.kind}",
        peak,
        share,
    )


def _list_notes(sound: Sound, clipped: float, peak: float) -> tuple[str, ...]:
    found = [sound.misnamed, sound.cut_off]
    if sound.channels == 1:
        found.append("is mono: both channels get the same")
    if sound.channels > 2:
        found.append(f"has {sound.channels} channels: the first two are taken")
    if sound.rate < _LOW_RATE_HZ:
        found.append(f"is sampled at {sound.rate} Hz: nothing above {sound.rate // 2} Hz is in it")
    if SILENT_PEAK <= peak < _QUIET_PEAK:
        found.append(
            "is very quiet, with a peak below -30 dB: nearly silence to a codec; musiclora cut --loudness -20 raises it"
        )
    if clipped >= CLIPPED_SHARE:
        where = "at or beyond full scale" if peak > 0.999 else "flat tops at its peak"
        found.append(f"is clipped: {clipped:.2%} of its samples are {where}")
    return tuple(text for text in found if text)


def to_decibels(value: float) -> float:
    """Convert a share of full scale to dB, at least -120."""
    return max(-120.0, 20 * float(np.log10(max(value, 1e-6))))


def examine_folder(folder: Path, on_progress: Callable[[int, int], None]) -> list[AudioHealth]:
    """Measure every recording of a folder, and list sound in formats that cannot be read.

    Raises:
        DataError: no such folder.
    """
    files, foreign = audio_files(folder)
    rows = []
    for number, path in enumerate([*files, *foreign], 1):
        rows.append(measure_health(path, path.relative_to(folder).as_posix()))
        on_progress(number, len(files) + len(foreign))
    return rows


def group_notes(notes: Iterable[tuple[str, str]], shown: int = 4) -> list[str]:
    """Format (file, text) as lines; files with the same text share one."""
    by_text: dict[str, list[str]] = {}
    for file, text in notes:
        by_text.setdefault(text, []).append(file)
    lines = []
    for text, files in by_text.items():
        lines.append(f"{list_names(files, shown)}: {text}")
    return lines


def _row_status(row: AudioHealth) -> str:
    return "skipped" if row.problem else "noted" if row.notes else "kept"


def audio_health_table(rows: Sequence[AudioHealth]) -> list[tuple[str, ...]]:
    """Format the cells under RECORDING_COLUMNS; skipped rows first, then noted, then kept, each in file order."""
    rank = {"skipped": 0, "noted": 1, "kept": 2}
    return [
        (
            r.file,
            _row_status(r),
            f"{r.seconds:.1f}",
            str(r.rate or ""),
            str(r.channels or ""),
            r.kind,
            f"{to_decibels(r.peak):.1f} dB" if r.frames else "",
            f"{r.clipped:.2%}" if r.clipped else "",
            "; ".join([r.problem] if r.problem else r.notes),
        )
        for r in sorted(rows, key=lambda row: rank[_row_status(row)])
    ]


def audio_health_json(rows: Sequence[AudioHealth]) -> dict[str, Any]:
    """Build the table for `--json`: counts by status, the usable time, and every row."""
    count = [_row_status(row) for row in rows]
    return {
        "kept": count.count("kept"),
        "noted": count.count("noted"),
        "skipped": count.count("skipped"),
        "seconds": round(sum(row.seconds for row in rows if not row.problem), 3),
        "rows": [{**dataclasses.asdict(row), "status": _row_status(row), "silent": row.silent} for row in rows],
    }


def audio_health_line(rows: Sequence[AudioHealth]) -> str:
    """Format the usable recordings and their minutes as one line."""
    found = audio_health_json(rows)
    usable = found["kept"] + found["noted"]
    return (
        f"{usable} recordings can be used ({found['noted']} with a remark), {found['skipped']} cannot; "
        f"{found['seconds'] / 60:.1f} minutes"
    )
