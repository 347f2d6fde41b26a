"""Reading a folder of music: every file parsed in a child process, with a health table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.errors import DataError, join_problems
from musiclora.formats import ABC_SUFFIXES, MUSIC_SUFFIXES
from musiclora.progress import OnProgress
from musiclora.symbolic.formats import abc, midi
from musiclora.symbolic.reading.health import HealthRow, skip_reasons
from musiclora.symbolic.reading.provenance import Origin, read_provenance
from musiclora.symbolic.reading.worker import Outcome, Setting, Task
from musiclora.symbolic.reading.worker_pool import run_all
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

TIMEOUT = 20.0


@dataclass(frozen=True)
class Song:
    """One tune that can be used.

    Attributes:
        name: path inside the folder, with `#n` for the n-th tune of a file.
        source: the file.
        group: the song that this is, or is a copy of (by provenance.json).
        is_original: False for a copy that augment made.
        tune: number inside the file from 1 on, 0 where the file is one piece.
        notes: notes that are used.
        seconds: length.
        pitches: the highest pitch at each onset, int16 [n].
        score: repaired symusic Score with all its tracks; None where scores were not asked for.
        tokens: int32 [n]; None where no tokenizer was given.
        decoded_notes: notes that the tokens decode to.
    """

    name: str
    source: Path
    group: str
    is_original: bool
    tune: int
    notes: int
    seconds: float
    pitches: np.ndarray
    score: Any = None
    tokens: np.ndarray | None = None
    decoded_notes: int = 0


@dataclass(frozen=True)
class Reading:
    """All songs of a folder, and what became of every file."""

    songs: list[Song]
    health: list[HealthRow]


@dataclass(frozen=True)
class _Job:
    """A task, or the reason why there is none, and whose it is."""

    file: Path
    name: str
    tune: int
    task: Task | None
    error: str = ""


def escape_name(name: str) -> str:
    """A name that every terminal and JSON file can hold: undecodable bytes and control characters are escaped."""
    safe = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe)


def music_files(source: Path) -> list[Path]:
    """The music files of a folder and its subfolders in a stable order, or the one file given.

    Hidden files and folders are passed over; links to folders are not followed; anything with a right ending is
    listed, readable or not.

    Raises:
        DataError: nothing is there, or no file with a known ending.
    """
    known = ", ".join(MUSIC_SUFFIXES)
    if source.is_dir():
        found = [p for p in _walk(source) if p.suffix.lower() in MUSIC_SUFFIXES]
        if not found:
            raise DataError(f"{escape_name(str(source))}: no music in this folder; put {known} files there")
        return sorted(found, key=lambda p: p.relative_to(source).parts)
    if not os.path.lexists(source):
        raise DataError(f"{escape_name(str(source))}: no such file or folder; give a folder with {known} files")
    if source.suffix.lower() not in MUSIC_SUFFIXES:
        raise DataError(f"{escape_name(str(source))}: not a music file by its ending; expected {known}")
    return [source]


def _walk(folder: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith((".", "__MACOSX"))]
        yield from (Path(at) / f for f in files if not f.startswith("."))


def read_music(
    source: Path,
    *,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    on_progress: OnProgress | None = None,
    tokenizer: MusicTokenizer | None = None,
    keep_scores: bool = True,
    need_songs: bool = True,
) -> Reading:
    """Read all music of a folder, or one file, in child processes.

    Args:
        source: a folder, searched with its subfolders, or one file.
        workers: child processes; None or 0: one a core, at most eight.
        timeout: seconds that one file or tune may take.
        on_progress: called with (done, total) tunes.
        tokenizer: tokenise in the children too.
        keep_scores: return the scores.
        need_songs: refuse a folder in which nothing is usable; False for a mere look.

    Raises:
        DataError: no music file, none usable, or a provenance.json that cannot be understood.
    """
    files = music_files(source)
    root = source if source.is_dir() else source.parent
    jobs = [job for file in files for job in _jobs(file, escape_name(file.relative_to(root).as_posix()))]
    todo = [(i, job.task) for i, job in enumerate(jobs) if job.task is not None]
    setting = Setting(tokenizer.to_json() if tokenizer else None, keep_scores)
    tasks = [task for _, task in todo]
    count = workers or min(8, os.cpu_count() or 1)
    on_done = (lambda n: on_progress(n, len(tasks))) if on_progress else None
    outcomes = dict(zip((i for i, _ in todo), run_all(tasks, setting, count, timeout, on_done), strict=True))
    reading = Reading([], [])
    origins = _Origins(root)
    for i, job in enumerate(jobs):
        found = outcomes.get(i) or [Outcome(error=job.error)]
        for n, outcome in enumerate(found, 1):
            tune = job.tune or (n if len(found) > 1 else 0)
            _add(reading, job, tune, outcome, origins)
    if need_songs and not reading.songs:
        raise DataError(
            f"{escape_name(str(source))}: none of {len(files)} music files can be used: "
            f"{join_problems(skip_reasons(reading.health), 3)}"
        )
    return reading


class _Origins:
    """provenance.json of every folder from the root down to a file, read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read: dict[Path, dict[str, Origin]] = {}

    def of(self, file: Path) -> Origin | None:
        for folder in file.parents:
            if folder not in self.read:
                self.read[folder] = read_provenance(folder)
            if found := self.read[folder].get(escape_name(file.relative_to(folder).as_posix())):
                return found
            if folder == self.root:
                break
        return None


def _jobs(file: Path, name: str) -> list[_Job]:
    if not file.exists():
        return [_Job(file, name, 0, None, "a link that leads nowhere")]
    if not file.is_file():  # opening a pipe would wait for ever
        return [_Job(file, name, 0, None, "not a regular file")]
    is_abc = file.suffix.lower() in ABC_SUFFIXES
    limit = abc.MAX_ABC_BYTES if is_abc else midi.MAX_MIDI_BYTES
    try:
        size = file.stat().st_size
        if size > limit:
            return [_Job(file, name, 0, None, f"{size >> 20} MB; at most {limit >> 20} MB are read")]
        if not is_abc:
            return [_Job(file, name, 0, Task(path=str(file.absolute())))]
        tunes = abc.split_tunes(abc.decode_text(file.read_bytes()))
    except OSError as error:
        return [_Job(file, name, 0, None, f"cannot be read: {error.strerror}")]
    if not tunes:
        return [_Job(file, name, 0, None, "no tune: neither an X: nor a K: line")]
    return [_Job(file, name, i if len(tunes) > 1 else 0, Task(tune=t)) for i, t in enumerate(tunes, 1)]


def _add(reading: Reading, job: _Job, tune: int, outcome: Outcome, origins: _Origins) -> None:
    if outcome.error:
        reading.health.append(HealthRow(job.name, tune, "skipped", escape_name(outcome.error)))
        return
    reading.health.append(
        HealthRow(
            job.name,
            tune,
            "repaired" if outcome.repairs else "kept",
            "; ".join([*outcome.repairs, *outcome.remarks]),
            outcome.tracks,
            outcome.notes,
            outcome.drums,
            outcome.outside,
            outcome.seconds,
        )
    )
    name = f"{job.name}#{tune}" if tune else job.name
    origin = origins.of(job.file) or Origin(name)
    reading.songs.append(
        Song(
            name=name,
            source=job.file,
            group=origin.song,
            is_original=origin.original,
            tune=tune,
            notes=outcome.notes,
            seconds=outcome.seconds,
            pitches=outcome.pitches,
            score=outcome.score,
            tokens=outcome.tokens,
            decoded_notes=outcome.decoded_notes,
        )
    )
