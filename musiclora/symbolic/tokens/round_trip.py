"""Round trip of songs through tokens: how many notes come back, and how far from where they were."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from musiclora.music.instruments import program_of
from musiclora.symbolic.tokens.holds import Holds
from musiclora.symbolic.tokens.seconds import TempoMap

if TYPE_CHECKING:
    from symusic import Score

_FARTHEST_SECONDS = 0.25  # a note that is farther from all of its pitch is another
_FARTHEST_QUARTERS = 0.5
_HIGH_PERCENT = 95
_Key = tuple[int, int]  # program, pitch


def _no_errors() -> np.ndarray:
    return np.zeros(0, np.float32)


@dataclass(frozen=True)
class RoundTrip:
    """Notes of songs that come back from their tokens, and the errors of their times.

    Errors are in milliseconds where tokens tell times in seconds, else in quarters: tokens without tempos play at
    another speed, which `Kept.retimed` counts.

    Attributes:
        notes: notes of the songs.
        kept: notes that come back with their pitch, and with their program where tokens hold programs.
        instruments, instruments_kept: different programs of each song, with the drums as one, and those of which a note
            comes back with its program.
        onset_errors, duration_errors: absolute error of each kept note, float32 [kept].
    """

    notes: int = 0
    kept: int = 0
    instruments: int = 0
    instruments_kept: int = 0
    onset_errors: np.ndarray = field(default_factory=_no_errors)
    duration_errors: np.ndarray = field(default_factory=_no_errors)

    def as_json(self, holds: Holds) -> dict[str, Any]:
        """Build the object for `--json`: the counts, the unit, and of each error the median and the 95 % quantile."""
        return {
            "notes": self.notes,
            "kept": self.kept,
            "instruments": self.instruments,
            "instruments_kept": self.instruments_kept,
            "unit": "ms" if holds.in_seconds else "quarters",
            "onset_error": _summarise(self.onset_errors),
            "duration_error": _summarise(self.duration_errors),
        }

    def describe(self, holds: Holds) -> list[str]:
        """Format the counts and errors as one line; none without notes."""
        if not self.notes:
            return []
        unit = "ms" if holds.in_seconds else "quarters"
        line = f"round trip through the tokens: {self.kept:,} of {self.notes:,} notes come back"
        if self.kept:
            for name, errors in (("onsets", self.onset_errors), ("durations", self.duration_errors)):
                found = _summarise(errors)
                median, p95 = _number(found["median"]), _number(found["p95"])
                line += f"; {name} are off by {median} {unit} (median), {p95} (95 %)"
        return [f"{line}; {self.instruments_kept:,} of {self.instruments:,} instruments"]


def _number(value: float | None) -> str:
    """Format three digits, but never an exponent for a large error."""
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def add_round_trips(found: Iterable[RoundTrip]) -> RoundTrip:
    """Add up the round trips of several songs."""
    trips = list(found)
    return RoundTrip(
        sum(trip.notes for trip in trips),
        sum(trip.kept for trip in trips),
        sum(trip.instruments for trip in trips),
        sum(trip.instruments_kept for trip in trips),
        np.concatenate([_no_errors(), *(trip.onset_errors for trip in trips)]),
        np.concatenate([_no_errors(), *(trip.duration_errors for trip in trips)]),
    )


def compare_scores(score: Score, decoded: Score, holds: Holds) -> RoundTrip:
    """Compare a score with the one that its tokens decode to.

    Notes of one program and pitch are matched in order of time, each with the nearest; programs count where tokens hold
    them, and drums match drums only.

    Args:
        score: in ticks.
        decoded: in ticks, perhaps of another length.
        holds: facts that the tokens hold.
    """
    before, after = (_notes_by_key(one, holds) for one in (score, decoded))
    farthest = _FARTHEST_SECONDS if holds.in_seconds else _FARTHEST_QUARTERS
    scale = 1000 if holds.in_seconds else 1
    onset, duration = [_no_errors()], [_no_errors()]
    for key, notes in before.items():
        others = after.get(key)
        if others is not None:
            left, right = _match_onsets(notes[:, 0], others[:, 0], farthest)
            errors = np.abs(notes[left] - others[right]).astype(np.float32) * scale
            onset.append(errors[:, 0])
            duration.append(errors[:, 1])
    errors = np.concatenate(onset)
    programs, returned = _programs(score), _programs(decoded)
    return RoundTrip(
        notes=score.note_num(),
        kept=len(errors),
        instruments=len(programs),
        instruments_kept=len(programs & returned) if len(errors) else 0,
        onset_errors=errors,
        duration_errors=np.concatenate(duration),
    )


def _summarise(errors: np.ndarray) -> dict[str, float | None]:
    if not len(errors):
        return {"median": None, "p95": None}
    median, high = np.percentile(errors, (50, _HIGH_PERCENT))
    return {"median": round(float(median), 4), "p95": round(float(high), 4)}


def _programs(score: Score) -> set[int]:
    return {program_of(track) for track in score.tracks if len(track.notes)}


def _notes_by_key(score: Score, holds: Holds) -> dict[_Key, np.ndarray]:
    """Group onsets and durations by program and pitch: float64 [n, 2], in order of onset, the longest first."""
    clock = TempoMap(score) if holds.in_seconds else None
    columns = []
    for track in score.tracks:
        notes = track.notes.numpy()
        start = notes["time"].astype(np.int64)
        stop = start + notes["duration"]
        times = [clock.at(t) if clock else t / score.ticks_per_quarter for t in (start, stop)]
        program = program_of(track) if track.is_drum or holds.programs else 0
        columns.append(np.stack([np.full(len(start), program), notes["pitch"], times[0], times[1] - times[0]]))
    rows = np.concatenate([np.zeros((4, 0)), *columns], axis=1)
    rows = rows[:, np.lexsort((-rows[3], rows[2], rows[1], rows[0]))].T
    keys, first = np.unique(rows[:, :2].astype(np.int64), axis=0, return_index=True)
    groups = np.split(rows[:, 2:], first[1:])
    return {(int(program), int(pitch)): group for (program, pitch), group in zip(keys, groups, strict=False)}


def _match_onsets(before: np.ndarray, after: np.ndarray, farthest: float) -> tuple[list[int], list[int]]:
    """Pair ascending times [n] and [m], each with at most one of the other; return the indices of the pairs."""
    if len(before) == len(after) and (np.abs(before - after) <= farthest).all():
        return list(range(len(before))), list(range(len(after)))
    return _match_nearest(before.tolist(), after.tolist(), farthest)


def _match_nearest(before: Sequence[float], after: Sequence[float], farthest: float) -> tuple[list[int], list[int]]:
    left, right = [], []
    i = j = 0
    while i < len(before) and j < len(after):
        gap = abs(before[i] - after[j])
        # Of notes that begin together only one may come back; the next onset is another's partner if it is nearer.
        next_i, next_j = bisect_right(before, before[i]), bisect_right(after, after[j])
        if next_i < len(before) and abs(before[next_i] - after[j]) < gap:
            i = next_i
        elif next_j < len(after) and abs(before[i] - after[next_j]) < gap:
            j = next_j
        elif gap > farthest:
            i, j = (i + 1, j) if before[i] < after[j] else (i, j + 1)
        else:
            left.append(i)
            right.append(j)
            i, j = i + 1, j + 1
    return left, right
