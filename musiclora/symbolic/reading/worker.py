"""Child process that parses unknown files: receives tasks on stdin, answers on stdout, and prints nothing."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from musiclora.convert.errors import DataError

if TYPE_CHECKING:
    from symusic import Score

    from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

MAX_MEMORY_BYTES = 6 * 2**30
MAX_TOKENS = 500_000


@dataclass(frozen=True)
class ReadTask:
    """MIDI file by path, or one ABC tune as text."""

    path: str = ""
    tune: str = ""


@dataclass(frozen=True)
class WorkerSettings:
    """Settings that a worker receives before its first task.

    Attributes:
        tokenizer: content of tokenizer.json, or None for no tokens.
        keep_scores: send scores back.
    """

    tokenizer: str | None
    keep_scores: bool


@dataclass(frozen=True)
class Outcome:
    """Result for one tune: the reason why it is skipped in `error`, or all other fields."""

    error: str = ""
    repairs: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    tracks: int = 0
    notes: int = 0
    drums: int = 0
    outside: int = 0
    seconds: float = 0.0
    kept: dict[str, Any] = field(default_factory=dict)
    pitches: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))
    tokens: np.ndarray | None = None
    decoded_notes: int = 0
    score: Score | None = None


def skyline_melody(score: Score) -> np.ndarray:
    """Return the highest pitch at each onset of the first track, int16 [n]."""
    notes = score.tracks[0].notes.numpy()
    order = np.lexsort((-notes["pitch"].astype(np.int16), notes["time"]))
    times = notes["time"][order]
    first = np.concatenate([np.ones(min(1, len(times)), bool), np.diff(times) > 0])
    top: np.ndarray = notes["pitch"][order][first].astype(np.int16)
    return top


def _find_melody(score: Score, pitch_range: tuple[int, int]) -> np.ndarray:
    """Return the highest pitch at each onset, int16 [n]; that of the drums where nothing else plays."""
    from musiclora.symbolic.tokens.merge import merge_tracks

    merged = merge_tracks(score, *pitch_range)
    return skyline_melody(merged if merged.note_num() else score)


def _examine_score(
    score: Score, repairs: tuple[str, ...], tokenizer: MusicTokenizer | None, keep_score: bool
) -> Outcome:
    """Repair, measure and encode one score.

    Raises:
        DataError: the score has no usable note, or is too long.
    """
    from musiclora.symbolic.formats.sanitise import sanitise_score
    from musiclora.symbolic.tokens.kept import Kept, encode_and_count
    from musiclora.symbolic.tokens.kept_lines import list_left_out

    clean = sanitise_score(score)
    tokens, kept, remarks = None, Kept(), []
    if tokenizer is not None:
        tokens, kept = encode_and_count(tokenizer, clean.score)
        left_out = ", ".join(list_left_out(kept, tokenizer.holds))
        if not kept.kept:
            raise DataError("only drums" if kept.drums == kept.notes else f"no note is kept: {left_out}")
        remarks = [f"left out: {left_out}"] if left_out else []
        if kept.tracks_kept < kept.tracks:
            remarks.insert(0, f"{kept.tracks} tracks merged into {kept.tracks_kept}")
        if len(tokens) > MAX_TOKENS:
            raise DataError(f"{len(tokens)} tokens; at most {MAX_TOKENS} are used")
    return Outcome(
        repairs=tuple(dict.fromkeys([*repairs, *clean.repairs])),
        remarks=tuple(remarks),
        tracks=clean.tracks,
        notes=kept.kept if tokenizer else clean.notes,
        drums=kept.drums,
        outside=kept.outside,
        seconds=clean.seconds,
        kept=kept.as_json() if tokenizer else {},
        pitches=_find_melody(clean.score, tokenizer.pitch_range if tokenizer else (0, 127)),
        tokens=tokens,
        decoded_notes=kept.kept,
        score=clean.score if keep_score else None,
    )


def examine_file(task: ReadTask, tokenizer: MusicTokenizer | None, keep_scores: bool) -> list[Outcome]:
    """Read and encode a file or tune; a failure becomes an outcome with an error."""
    from musiclora.symbolic.formats.abc import parse_tune
    from musiclora.symbolic.formats.midi import MAX_MIDI_BYTES, Parsed, parse_midi

    try:
        if task.path:
            with Path(task.path).open("rb") as file:
                parsed = parse_midi(file.read(MAX_MIDI_BYTES + 1))
        else:
            parsed = [Parsed(parse_tune(task.tune), ())]
    except Exception as error:  # third-party parsers raise nearly anything; this is the child that contains them
        return [Outcome(error=_describe_failure(error))]
    outcomes = []
    for one in parsed:
        try:
            outcomes.append(_examine_score(one.score, one.repairs, tokenizer, keep_scores))
        except Exception as error:
            outcomes.append(Outcome(error=_describe_failure(error)))
    return outcomes


def _describe_failure(error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return f"unreadable: {type(error).__name__}: {' '.join(str(error).split())[:160]}"


def send(stream: BinaryIO, item: object) -> None:
    """Write one object, pickled and prefixed by its length."""
    data = pickle.dumps(item, protocol=5)
    stream.write(len(data).to_bytes(8, "big") + data)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one object that `send` wrote.

    Raises:
        EOFError: the other process has ended.
    """
    head = stream.read(8)
    data = stream.read(int.from_bytes(head, "big")) if len(head) == 8 else b""
    if len(head) < 8 or len(data) < int.from_bytes(head, "big"):
        raise EOFError("the stream has ended")
    return pickle.loads(data)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or hard > MAX_MEMORY_BYTES:
            resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, hard))


def serve_tasks() -> None:
    """Receive WorkerSettings, then answer tasks until stdin ends."""
    # symusic's ABC reader and the program it runs print on descriptors 1 and 2: answers need one of their own.
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    tasks = os.fdopen(os.dup(0), "rb")
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    settings: WorkerSettings = receive(tasks)
    _limit_memory()
    from musiclora.symbolic.tokens.tokenizer import from_json

    tokenizer = from_json(settings.tokenizer) if settings.tokenizer else None
    send(answers, "ready")
    while True:
        try:
            task: ReadTask = receive(tasks)
        except EOFError:
            return
        send(answers, examine_file(task, tokenizer, settings.keep_scores))
