"""Handlers of the child processes that parse music files, and their messages; see `children.serve`."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musiclora.convert.errors import DataError
from musiclora.formats import SCORE_SUFFIXES
from musiclora.symbolic.reading.health import SongCounts
from musiclora.symbolic.tokens.kept import Kept, encode_and_count, kept_from_json
from musiclora.symbolic.tokens.round_trip import RoundTrip, compare_scores

if TYPE_CHECKING:
    from symusic import Score

    from musiclora.symbolic.formats.midi import Parsed
    from musiclora.symbolic.tokens.protocol import SymbolicTokenizer

SONG_WORKER = f"{__name__}:song_worker"
TUNE_SPLITTER = f"{__name__}:tune_splitter"
MAX_TOKENS = 500_000
_OBJECTS_BETWEEN_COLLECTIONS = 100_000  # an event of a band is an object: by default 700 of them start a collection


@dataclass(frozen=True)
class ReadTask:
    """MIDI or MusicXML file by path, or one ABC tune as text with its file's shared header lines."""

    path: str = ""
    tune: str = ""
    shared: str = ""


@dataclass(frozen=True)
class Outcome(SongCounts):
    """Result for one tune: the reason why it is skipped in `error`, or all other fields."""

    error: str = ""
    repairs: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    pitches: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))
    tokens: np.ndarray | None = None
    decoded_notes: int = 0
    loudness: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    score: Score | None = None
    round_trip: RoundTrip | None = None

    def message(self) -> dict[str, Any]:
        """Convert to a message for the parent process."""
        from musiclora.symbolic.formats.score_arrays import pack_score

        record = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        score = None if self.score is None else pack_score(self.score)
        trip = None if self.round_trip is None else vars(self.round_trip)
        return {**record, "kept": self.kept.as_json(), "score": score, "round_trip": trip}


def read_outcomes(answer: object) -> list[Outcome]:
    """Build outcomes from a worker's answer, or from the reason why there is none; a wrong type is a crash."""
    if isinstance(answer, str):
        return [Outcome(error=answer)]
    try:
        if isinstance(answer, list) and answer:
            return [_read_outcome(record) for record in answer]
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    return [Outcome(error="crashed the reader")]


def _read_outcome(record: dict[str, Any]) -> Outcome:
    from musiclora.symbolic.formats.score_arrays import unpack_score

    score, tokens = record["score"], record["tokens"]
    return Outcome(
        error=str(record["error"]),
        repairs=tuple(map(str, record["repairs"])),
        remarks=tuple(map(str, record["remarks"])),
        tracks=int(record["tracks"]),
        notes=int(record["notes"]),
        drums=int(record["drums"]),
        outside=int(record["outside"]),
        decoded_notes=int(record["decoded_notes"]),
        seconds=float(record["seconds"]),
        kept=kept_from_json(record["kept"]),
        pitches=_read_column(record["pitches"]),
        tokens=None if tokens is None else _read_column(tokens),
        loudness=_read_column(record["loudness"]),
        score=None if score is None else unpack_score(score),
        round_trip=None if record["round_trip"] is None else RoundTrip(**record["round_trip"]),
    )


def _read_column(value: object) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind != "i":
        raise TypeError("expected an array of whole numbers")
    return value


def skyline_melody(score: Score) -> np.ndarray:
    """Return the highest pitch at each onset of the first track, int16 [n]."""
    notes = score.tracks[0].notes.numpy()
    order = np.lexsort((-notes["pitch"].astype(np.int16), notes["time"]))
    times = notes["time"][order]
    first = np.concatenate([np.ones(min(1, len(times)), bool), np.diff(times) > 0])
    top: np.ndarray = notes["pitch"][order][first].astype(np.int16)
    return top


def _find_melody(score: Score, pitch_range: tuple[int, int]) -> np.ndarray:
    """Return the highest pitch at each onset, int16 [n]; none of drums, whose pitches are no melody."""
    from musiclora.symbolic.tokens.merge import merge_tracks

    return skyline_melody(merge_tracks(score, *pitch_range))


def _examine_score(
    parsed: Parsed, tokenizer: SymbolicTokenizer | None, keep_score: bool, round_trip: bool, as_given: bool
) -> Outcome:
    """Repair, measure and encode one score.

    Raises:
        DataError: the score has no usable note, or is too long.
    """
    from musiclora.symbolic.decoding.loudness import measure_loudness
    from musiclora.symbolic.formats.sanitise import sanitise_score
    from musiclora.symbolic.tokens.kept_lines import list_left_out

    as_played = tokenizer is not None and tokenizer.holds.in_seconds
    clean = sanitise_score(parsed.score, as_played, as_given)
    tokens, kept, remarks, trip = None, Kept(), list(parsed.remarks), None
    if tokenizer is not None:
        tokens, kept = encode_and_count(tokenizer, clean.score)
        left_out = ", ".join(list_left_out(kept, tokenizer.holds))
        if not kept.kept:
            raise DataError("only drums" if kept.drums == kept.notes else f"no note is kept: {left_out}")
        if kept.tracks_kept < kept.tracks:
            remarks.append(f"{kept.tracks} tracks merged into {kept.tracks_kept}")
        remarks += [f"left out: {left_out}"] if left_out else []
        if len(tokens) > MAX_TOKENS:
            raise DataError(f"{len(tokens)} tokens; at most {MAX_TOKENS} are used")
        if round_trip:
            trip = compare_scores(clean.score, tokenizer.decode(tokens), tokenizer.holds)
    return Outcome(
        repairs=tuple(dict.fromkeys([*parsed.repairs, *clean.repairs])),
        remarks=tuple(remarks),
        tracks=clean.tracks,
        notes=kept.kept if tokenizer else clean.notes,
        drums=kept.drums,
        outside=kept.outside,
        seconds=clean.seconds,
        kept=kept,
        pitches=_find_melody(clean.score, tokenizer.holds.pitches if tokenizer else (0, 127)),
        tokens=tokens,
        decoded_notes=kept.kept,
        loudness=measure_loudness(clean.score)
        if tokenizer and not tokenizer.holds.velocities
        else np.zeros(0, np.int32),
        score=clean.score if keep_score else None,
        round_trip=trip,
    )


def examine_file(
    task: ReadTask,
    tokenizer: SymbolicTokenizer | None,
    keep_scores: bool,
    round_trip: bool = False,
    as_given: bool = False,
) -> list[Outcome]:
    """Read and encode a file or tune; a failure becomes an outcome with an error."""
    from musiclora.symbolic.formats.abc import parse_tune
    from musiclora.symbolic.formats.midi import MAX_MIDI_BYTES, Parsed, parse_midi
    from musiclora.symbolic.formats.musicxml import read_musicxml

    try:
        if Path(task.path).suffix.lower() in SCORE_SUFFIXES:
            parsed = [Parsed(*read_musicxml(Path(task.path)))]
        elif task.path:
            with Path(task.path).open("rb") as file:
                parsed = parse_midi(file.read(MAX_MIDI_BYTES + 1))
        else:
            parsed = [Parsed(*parse_tune(task.tune, task.shared))]
    except Exception as error:  # third-party parsers raise nearly anything; this is the child that contains them
        return [Outcome(error=_describe_failure(error))]
    outcomes = []
    for one in parsed:
        try:
            outcomes.append(_examine_score(one, tokenizer, keep_scores, round_trip, as_given))
        except Exception as error:
            outcomes.append(Outcome(error=_describe_failure(error)))
    return outcomes


def _describe_failure(error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return f"unreadable: {type(error).__name__}: {' '.join(str(error).split())[:160]}"


def song_worker(settings: dict[str, Any]) -> Callable[[dict[str, str]], object]:
    """Build the handler that reads songs.

    Args:
        settings: `tokenizer`, the content of tokenizer.json or None; `keep_scores`, True to send scores back;
            `round_trip`, True to decode the tokens and compare; `as_given`, True to keep silences and long notes.
    """
    from musiclora.symbolic.tokens.tokenizers import tokenizer_from_json

    tokenizer = tokenizer_from_json(settings["tokenizer"]) if settings["tokenizer"] else None
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)

    def read_song(task: dict[str, str]) -> object:
        outcomes = examine_file(
            ReadTask(**task),
            tokenizer,
            bool(settings["keep_scores"]),
            bool(settings["round_trip"]),
            bool(settings["as_given"]),
        )
        return [outcome.message() for outcome in outcomes]

    return read_song


def tune_splitter(settings: object) -> Callable[[str], object]:
    """Build the handler that splits an ABC file into its tunes, without parsing their music."""
    from musiclora.symbolic.formats.abc import read_tunes

    def split_file(path: str) -> object:
        try:
            return dataclasses.asdict(read_tunes(Path(path)))
        except (DataError, OSError) as error:
            return _describe_failure(error)

    return split_file
