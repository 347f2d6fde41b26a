"""Recordings of a folder before they are encoded: which can be used, what is there already, and the room they need."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musiclora.audio.files.disk import check_free_space
from musiclora.audio.files.health import AudioHealth, group_notes, measure_health
from musiclora.audio.files.sound import file_checksum, file_problem, name_problem, recordings_of
from musiclora.audio.latents.levels import level_notes
from musiclora.backends.base import Codec
from musiclora.errors import DataError, join_problems
from musiclora.progress import Reporter


@dataclass
class Encoded:
    """Result of encoding a folder of recordings.

    Attributes:
        files: number of files in the latents folder: recordings, or segments of them.
        recordings: number of recordings that they come from.
        seconds: their total length.
        fresh: number of files that this start encoded; the others were there already.
        left_out: one line for each file that cannot be used.
        remarks: (file, text) of remarks on the others.
        paths: each file in the latents folder by its checksum, as it was found.
        gains_db: gain of each recording before it was encoded, in dB; below 0 for those that were too loud.
    """

    files: int = 0
    recordings: int = 0
    seconds: float = 0.0
    fresh: int = 0
    left_out: list[str] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    paths: dict[str, Path] = field(default_factory=dict)
    gains_db: list[float] = field(default_factory=list)

    def notes(self) -> list[str]:
        """List the files left out and the remarks, a line each."""
        left_out = (f"left out: {text}" for text in self.left_out)
        return [*left_out, *level_notes(self.gains_db), *group_notes(self.remarks)]


@dataclass(frozen=True)
class SourceFile:
    """Recording of the folder: path, name, checksum, and its index entry or else its health."""

    path: Path
    name: str
    checksum: str
    item: dict[str, Any] | None
    health: AudioHealth | None

    @property
    def seconds(self) -> float:
        return float(self.health.seconds if self.health else self.item["seconds"] if self.item else 0.0)


def survey_files(folder: Path, known: dict[str, dict[str, Any]], out: Reporter) -> tuple[list[SourceFile], Encoded]:
    """Compute the checksums of all files, and the health of those that are not encoded yet."""
    paths, foreign = recordings_of(folder)
    files, result = [], Encoded()
    with out.task("reading recordings") as update:
        for number, path in enumerate([*paths, *foreign], 1):
            name = path.relative_to(folder).as_posix()
            checksum = "" if file_problem(path) or name_problem(name) else _readable_checksum(path)
            health = None if checksum in known else measure_health(path, name)
            if health and health.problem:
                result.left_out.append(f"{path}: {health.problem}")
            else:
                files.append(SourceFile(path, name, checksum, known.get(checksum), health))
            update(number, len(paths) + len(foreign))
    if not files:
        raise DataError(f"{folder}: no recording can be used: {join_problems(result.left_out)}")
    return files, result


def _readable_checksum(path: Path) -> str:
    """Compute a file's checksum; empty where it cannot be read, which its health then says."""
    try:
        return file_checksum(path)
    except OSError:
        return ""


def check_disk(cache: Path, files: list[SourceFile], codec: Codec) -> None:
    """Raise OutputError where the disk cannot hold the latents of the files that are not encoded yet."""
    fresh = {f.checksum: f.seconds for f in files if f.item is None}
    if not fresh:
        return
    # The longest is on the disk twice for a moment: in its part file and in its finished one.
    frames = int((sum(fresh.values()) + 2 * max(fresh.values())) * codec.sample_rate / codec.hop)
    check_free_space(cache, frames * codec.latent_channels * 4, "latents", "free some space or choose another folder")
