"""Reader of music folders: parses every file in a child process and keeps a health table."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from musiclora.children.pool import run_tasks
from musiclora.convert.errors import DataError, escape_controls, join_problems
from musiclora.formats import ABC_SUFFIXES, MUSIC_SUFFIXES, foreign_score
from musiclora.progress import OnProgress
from musiclora.symbolic.formats import abc, midi
from musiclora.symbolic.reading.health import HealthRow, skip_reasons
from musiclora.symbolic.reading.provenance import Origin, read_provenance
from musiclora.symbolic.reading.worker import SONG_WORKER, TUNE_SPLITTER, Outcome, ReadTask, read_outcomes
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer
from musiclora.symbolic.tokens.round_trip import RoundTrip

if TYPE_CHECKING:
    from symusic import Score

TIMEOUT_SECONDS = 20.0
_SPLIT_ALONE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Song:
    """Usable tune of a folder.

    Attributes:
        name: path inside the folder, with `#n` for the n-th tune of a file.
        source: its file.
        group: name of the song that it is, or is a copy of (by provenance.json).
        is_original: False for a copy by augment.
        tune: number inside the file from 1 on, 0 where the file is one piece.
        notes: number of notes that are used.
        seconds: length.
        pitches: highest pitch at each onset, int16 [n].
        score: repaired score with all its tracks, or None where scores are not kept.
        tokens: int32 [n], or None without a tokenizer.
        decoded_notes: number of notes that the tokens decode to.
        loudness: what `decoding.loudness` measured, where the tokens hold none.
        round_trip: comparison of the score with what its tokens decode to, or None where it was not asked for.
    """

    name: str
    source: Path
    group: str
    is_original: bool
    tune: int
    notes: int
    seconds: float
    pitches: np.ndarray
    score: Score = None
    tokens: np.ndarray | None = None
    decoded_notes: int = 0
    loudness: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    round_trip: RoundTrip | None = None


@dataclass(frozen=True)
class Reading:
    """Songs of a folder, and the health table of its files."""

    songs: list[Song]
    health: list[HealthRow]


@dataclass(frozen=True)
class _TuneJob:
    """One tune to read: its file, name and number, and its task or the reason why it has none."""

    file: Path
    name: str
    tune: int
    task: ReadTask | None
    error: str = ""


def music_files(source: Path) -> list[Path]:
    """List the music files of a folder and its subfolders in a stable order, or the one file given.

    Hidden files and folders are skipped, and links to folders are not followed. Every file with a known suffix is
    listed, readable or not; so is a score in a format that is not read, for the health table to name it.

    Raises:
        DataError: the path does not exist, or holds no file with a known suffix.
    """
    if source.is_dir():
        known = [p for p in _visible_files(source) if p.suffix.lower() in MUSIC_SUFFIXES or foreign_score(p)]
        if not known:
            raise DataError(
                f"{escape_controls(str(source))}: no music in this folder; put {', '.join(MUSIC_SUFFIXES)} files there"
            )
        return sorted(known, key=lambda p: p.relative_to(source).parts)
    check_readable(source)
    return [source]


def check_readable(source: Path) -> None:
    """Check that a file exists and that its ending is one of music.

    Raises:
        DataError: it does not, or its format is not read; the text says what to do.
    """
    known, name = ", ".join(MUSIC_SUFFIXES), escape_controls(str(source))
    if not os.path.lexists(source):
        raise DataError(f"{name}: no such file or folder; give a folder with {known} files, or one of them")
    if source.is_dir():
        raise DataError(f"{name}: is a folder; give one {known} file")
    if reason := foreign_score(source):
        raise DataError(f"{name}: is {reason}")
    if source.suffix.lower() not in MUSIC_SUFFIXES:
        raise DataError(f"{name}: not a music file by its ending; expected {known}")


def _visible_files(folder: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith((".", "__MACOSX"))]
        yield from (Path(at) / f for f in files if not f.startswith("."))


def read_music(
    source: Path,
    *,
    workers: int | None = None,
    timeout: float = TIMEOUT_SECONDS,
    on_progress: OnProgress | None = None,
    tokenizer: SymbolicTokenizer | None = None,
    keep_scores: bool = True,
    need_songs: bool = True,
    round_trip: bool = False,
    as_given: bool = False,
) -> Reading:
    """Read all music of a folder, or one file, in child processes.

    Args:
        source: folder, searched with its subfolders, or one file.
        workers: child processes; None or 0: one for each core, at most eight.
        timeout: seconds that one file or tune may take.
        on_progress: called with (done, total) tunes.
        tokenizer: tokenizer that the child processes apply, or None.
        keep_scores: return the scores.
        need_songs: raise where no tune is usable; False returns the health table alone.
        round_trip: decode each song's tokens and compare.
        as_given: keep silences and long notes as they are.

    Raises:
        DataError: no music file, none usable, or a provenance.json that cannot be understood.
    """
    files = music_files(source)
    root = source if source.is_dir() else source.parent
    count = workers or min(8, os.cpu_count() or 1)
    jobs = _list_jobs(files, root, count, timeout)
    todo = [(i, dataclasses.asdict(job.task)) for i, job in enumerate(jobs) if job.task is not None]
    settings = {
        "tokenizer": tokenizer.to_json() if tokenizer else None,
        "keep_scores": keep_scores,
        "round_trip": round_trip,
        "as_given": as_given,
    }
    tasks = [task for _, task in todo]
    on_done = (lambda n: on_progress(n, len(tasks))) if on_progress else None
    answers = run_tasks(tasks, SONG_WORKER, settings, count, timeout, on_done)
    outcomes = {i: read_outcomes(answer) for (i, _), answer in zip(todo, answers, strict=True)}
    reading = Reading([], [])
    origins = _OriginFinder(root)
    for i, job in enumerate(jobs):
        found = outcomes.get(i) or [Outcome(error=job.error)]
        for n, outcome in enumerate(found, 1):
            tune = job.tune or (n if len(found) > 1 else 0)
            _add_tune(reading, job, tune, outcome, origins)
    if need_songs and not reading.songs:
        number = f"{len(files)} music file{'' if len(files) == 1 else 's'}"
        raise DataError(
            f"{escape_controls(str(source))}: none of {number} can be used: "
            f"{join_problems(skip_reasons(reading.health), 3)}"
        )
    return reading


class _OriginFinder:
    """Looks files up in the provenance.json of each folder up to the root, which it reads once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cached: dict[Path, dict[str, Origin]] = {}

    def find_origin(self, file: Path) -> Origin | None:
        for folder in file.parents:
            if folder not in self.cached:
                self.cached[folder] = read_provenance(folder)
            if found := self.cached[folder].get(escape_controls(file.relative_to(folder).as_posix())):
                return found
            if folder == self.root:
                break
        return None


def _list_jobs(files: Sequence[Path], root: Path, workers: int, timeout: float) -> list[_TuneJob]:
    """List the tunes of all files in their order; child processes split ABC files into tunes."""
    names = [escape_controls(file.relative_to(root).as_posix()) for file in files]
    problems = [_find_problem(file) for file in files]
    abc_files = [file for file, problem in zip(files, problems, strict=True) if not problem and _is_abc(file)]
    # a process takes longer to start than to split some megabytes
    count = workers if sum(f.stat().st_size for f in abc_files) > _SPLIT_ALONE_BYTES else 1
    answers = run_tasks([str(f.absolute()) for f in abc_files], TUNE_SPLITTER, None, count, timeout)
    tunes = dict(zip(abc_files, answers, strict=True))
    jobs: list[_TuneJob] = []
    for file, name, problem in zip(files, names, problems, strict=True):
        if problem:
            jobs.append(_TuneJob(file, name, 0, None, problem))
        elif file in tunes:
            jobs += _list_tunes(file, name, tunes[file])
        else:
            jobs.append(_TuneJob(file, name, 0, ReadTask(path=str(file.absolute()))))
    return jobs


def _is_abc(file: Path) -> bool:
    return file.suffix.lower() in ABC_SUFFIXES


def _find_problem(file: Path) -> str:
    """Return the reason why a file must not be opened, or an empty string."""
    if not file.exists():
        return "a link that leads nowhere"
    if not file.is_file():  # opening a pipe would wait for ever
        return "not a regular file"
    if reason := foreign_score(file):
        return reason
    limit = abc.MAX_ABC_BYTES if _is_abc(file) else midi.MAX_MIDI_BYTES
    try:
        size = file.stat().st_size
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return f"{size >> 20} MB; at most {limit >> 20} MB are read" if size > limit else ""


def _list_tunes(file: Path, name: str, answer: object) -> list[_TuneJob]:
    """List the tunes of an ABC file from the splitter's answer, or one job with the reason why it has none."""
    found = answer if isinstance(answer, dict) else {}
    tunes, shared = found.get("tunes"), found.get("shared")
    if not isinstance(tunes, list) or not tunes:
        return [_TuneJob(file, name, 0, None, answer if isinstance(answer, str) else "crashed the reader")]
    numbers = range(1, len(tunes) + 1) if len(tunes) > 1 else [0]
    return [
        _TuneJob(file, name, n, ReadTask(tune=str(tune), shared=str(shared)))
        for n, tune in zip(numbers, tunes, strict=True)
    ]


def _add_tune(reading: Reading, job: _TuneJob, tune: int, outcome: Outcome, origins: _OriginFinder) -> None:
    """Add one row to the health table and, unless the tune is skipped, one song."""
    if outcome.error:
        reading.health.append(HealthRow(job.name, tune, "skipped", escape_controls(outcome.error)))
        return
    reading.health.append(
        HealthRow(
            job.name,
            tune,
            "repaired" if outcome.repairs else "kept",
            "; ".join([*outcome.repairs, *outcome.remarks]),
            **outcome.counts(),
        )
    )
    name = f"{job.name}#{tune}" if tune else job.name
    origin = origins.find_origin(job.file) or Origin(name)
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
            loudness=outcome.loudness,
            round_trip=outcome.round_trip,
        )
    )
