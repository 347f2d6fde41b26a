"""A score as notation: onsets and lengths on a grid of note values, chords, bars and a key."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from musiclora.music.instruments import DRUMS

if TYPE_CHECKING:
    from symusic import Score

T = TypeVar("T")
_DIVISIONS = (1, 2, 4, 3, 6, 8)  # of a quarter note, in the order in which they are tried
_NEAR = 1 / 24  # of a quarter note: 21 ms at 120
_MOVED = 1e-3  # of a quarter note: what a tick of common files is off
# Krumhansl and Kessler 1982: how well each pitch class fits C major and C minor.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


@dataclass(frozen=True)
class NotatedChord:
    """Notes of one part that begin and end together; quarters from the beginning of the first bar."""

    onset: Fraction
    length: Fraction
    pitches: tuple[int, ...]

    @property
    def end(self) -> Fraction:
        return self.onset + self.length


@dataclass(frozen=True)
class NotatedPart:
    """Part with its chords in order; its program is -1 for drums."""

    name: str
    program: int
    chords: tuple[NotatedChord, ...]


@dataclass(frozen=True)
class Notation:
    """Score on a grid.

    Attributes:
        parts: the parts with notes.
        metres: onset in quarters, numerator, denominator; the first at 0.
        tempos: onset in quarters, quarter notes a minute; the first at 0.
        sharps: of the key signature, flats below 0.
        minor: True for a minor key.
        remarks: what was moved, and the key where it was estimated.
    """

    parts: tuple[NotatedPart, ...]
    metres: tuple[tuple[Fraction, int, int], ...]
    tempos: tuple[tuple[Fraction, float], ...]
    sharps: int
    minor: bool
    remarks: tuple[str, ...]


def notate_score(score: Score) -> Notation:
    """Put a score in ticks on a grid: in each quarter the coarsest division that its onsets are near to.

    Divisions are 1, 2, 4 and 8 parts (down to 32nd notes), and 3 and 6 (triplets).
    """
    quarter = score.ticks_per_quarter
    tempos = _marks([(t.time / quarter, t.qpm) for t in score.tempos if t.qpm > 0], 120.0)
    parts, moves = [], []
    for track in score.tracks:
        if not len(track.notes):
            continue
        notes = track.notes.numpy()
        begin, end = notes["time"] / quarter, (notes["time"] + notes["duration"]) / quarter
        chords, moved = _notate_part(begin, end, notes["pitch"])
        moves += [(at, by) for at, by in moved]
        program = DRUMS if track.is_drum else int(track.program)
        parts.append(NotatedPart(track.name, program, chords))
    metres = _marks(
        [(m.time / quarter, (m.numerator, m.denominator)) for m in score.time_signatures if m.numerator], (4, 4)
    )
    sharps, minor, said = _find_key(score)
    lines = [*_describe_moves(moves, tempos), *said]
    rounded = tuple((Fraction(round(at * 8), 8), n, d) for at, (n, d) in metres)
    return Notation(
        tuple(parts), rounded, tuple((Fraction(round(at * 8), 8), q) for at, q in tempos), sharps, minor, tuple(lines)
    )


def _notate_part(
    begin: np.ndarray, end: np.ndarray, pitch: np.ndarray
) -> tuple[tuple[NotatedChord, ...], list[tuple[float, float]]]:
    """Put notes on the grid of each quarter.

    Returns:
        Chords in order, and for each moved note its onset and the distance, in quarters.
    """
    division = _choose_divisions(begin)
    onsets = [_snap(t, division) for t in begin]
    ends = [max(_snap(e, division), o + Fraction(1, 8)) for e, o in zip(end, onsets, strict=True)]
    moved = [(float(t), abs(float(o) - t)) for t, o in zip(begin, onsets, strict=True) if abs(float(o) - t) > _MOVED]
    spans: dict[int, list[list[Fraction]]] = defaultdict(list)
    for o, e, p in sorted(zip(onsets, ends, map(int, pitch), strict=True)):
        same = spans[p]
        if same and same[-1][0] == o:
            same[-1][1] = max(same[-1][1], e)
            continue
        if same and same[-1][1] > o:  # a key that is struck again ends its earlier note
            same[-1][1] = o
        same.append([o, e])
    together: dict[tuple[Fraction, Fraction], list[int]] = defaultdict(list)
    for p, found in spans.items():
        for o, e in found:
            together[o, e - o].append(p)
    chords = [NotatedChord(o, length, tuple(sorted(pitches))) for (o, length), pitches in together.items()]
    return tuple(sorted(chords, key=lambda c: (c.onset, c.length))), moved


def _choose_divisions(begin: np.ndarray) -> dict[int, int]:
    """Choose the division of each quarter in which notes begin."""
    found: dict[int, int] = {}
    quarters = np.floor(begin + 0.02).astype(int)
    for beat in np.unique(quarters).tolist():
        inside = begin[quarters == beat] - beat
        errors = {d: float(np.abs(inside - np.round(inside * d) / d).max()) for d in _DIVISIONS}
        found[beat] = next((d for d in _DIVISIONS if errors[d] <= _NEAR), min(errors, key=lambda d: errors[d]))
    return found


def _snap(time: float, divisions: dict[int, int]) -> Fraction:
    """Round a time to the division of its quarter; a quarter in which nothing begins has four parts."""
    beat = math.floor(time + 0.02)
    d = divisions.get(beat, 4)
    return beat + Fraction(max(0, round((time - beat) * d)), d)


def _marks(marks: list[tuple[float, T]], default: T) -> list[tuple[float, T]]:
    """Sort marks by time, keep the last of those at one time, and begin at 0."""
    found = dict(sorted(marks, key=lambda mark: mark[0]))
    if 0.0 not in found:
        found = {0.0: next(iter(found.values()), default), **found}
    return list(found.items())


def _describe_moves(moves: Sequence[tuple[float, float]], tempos: Sequence[tuple[float, float]]) -> list[str]:
    if not moves:
        return []
    times = [at for at, _ in tempos]
    speeds = [tempos[max(0, int(np.searchsorted(times, at, "right")) - 1)][1] for at, _ in moves]
    worst = max(by * 60_000 / speed for (_, by), speed in zip(moves, speeds, strict=True))
    count = f"{len(moves)} note{'s' if len(moves) > 1 else ''} moved"
    return [f"{count} to the grid of note values (down to 32nd notes and triplets), by at most {worst:.0f} ms"]


def _find_key(score: Score) -> tuple[int, bool, list[str]]:
    """Return the key of the file, or the one that fits its notes best, with a remark."""
    if len(score.key_signatures):
        first = score.key_signatures[0]
        return int(first.key), bool(first.tonality), []
    weights = np.zeros(12)
    for track in score.tracks:
        if not track.is_drum and len(track.notes):
            notes = track.notes.numpy()
            np.add.at(weights, notes["pitch"] % 12, notes["duration"])
    if not weights.any():
        return 0, False, []
    fits = {
        (tonic, minor): float(np.corrcoef(np.roll(weights, -tonic), profile)[0, 1])
        for minor, profile in ((False, _MAJOR), (True, _MINOR))
        for tonic in range(12)
    }
    tonic, minor = max(fits, key=lambda key: fits[key])
    sharps = (7 * (tonic + (3 if minor else 0)) + 5) % 12 - 5
    name = ("C", "D flat", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")[tonic]
    return sharps, minor, [f"the file states no key; {name} {'minor' if minor else 'major'} fits its notes best"]
