"""Loudness of notes whose tokens hold none: that of the training songs, by instrument and place in the bar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from musiclora.music.bars import bar_lines
from musiclora.music.instruments import DRUMS, program_of

if TYPE_CHECKING:
    from symusic import Score

LOUDNESS_RECORD = "loudness"  # key of musiclora.json
LOUDNESS_OF_SONGS = "loudness: the tokens hold none; it is that of the training songs, by instrument and beat"
DEFAULT_LOUDNESS = "loudness: the tokens hold none; new notes have default levels with accents on the beat"
BAR, BEAT, OFF_BEAT = range(3)  # places of a note: on a bar line, on another beat, between beats
_PLACES = 3
_DEFAULT = (80, 76, 72)
_DEFAULT_DRUMS = (92, 86, 78)
_NEAR_QUARTERS = 1 / 24  # a note this near to a beat is on it


@dataclass(frozen=True)
class Loudness:
    """Velocity of each instrument by place in the bar.

    Attributes:
        velocities: for each program (-1 for drums) the velocity on a bar line, on another beat, and between beats.
    """

    velocities: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)

    def of(self, program: int, places: np.ndarray) -> np.ndarray:
        """Return the velocities of notes at some places, int64 [n]; defaults for a program that is not recorded."""
        levels = self.velocities.get(program, _DEFAULT_DRUMS if program == DRUMS else _DEFAULT)
        found: np.ndarray = np.array(levels, np.int64)[places]
        return found

    def as_json(self) -> dict[str, list[int]]:
        """Return the entry of musiclora.json."""
        return {str(program): list(levels) for program, levels in sorted(self.velocities.items())}


def loudness_from_json(record: Mapping[str, Any]) -> Loudness | None:
    """Read the entry of a musiclora.json; None where it has none that is sound."""
    found = record.get(LOUDNESS_RECORD)
    try:
        levels = {int(program): tuple(map(int, row)) for program, row in dict(found or {}).items()}
    except (TypeError, ValueError):
        return None
    sound = all(
        DRUMS <= program <= 127 and len(row) == _PLACES and all(1 <= level <= 127 for level in row)
        for program, row in levels.items()
    )
    return (
        Loudness({program: (row[0], row[1], row[2]) for program, row in levels.items()}) if levels and sound else None
    )


def find_loudness(records: Sequence[Mapping[str, Any]]) -> Loudness | None:
    """Return the loudness of the first of some musiclora.json that has it."""
    return next((found for record in records if (found := loudness_from_json(record)) is not None), None)


def accent_places(score: Score, ticks: np.ndarray) -> np.ndarray:
    """Return the place of each onset in the bars of a score, int64 [n].

    Args:
        score: its metres count; four quarters make a bar without one.
        ticks: onsets, int [n].
    """
    if not len(ticks):
        return np.zeros(0, np.int64)
    quarter = int(score.ticks_per_quarter)
    lines = np.array(bar_lines(score, int(ticks.max()) + 1))
    near = quarter * _NEAR_QUARTERS
    bar = np.clip(np.searchsorted(lines, ticks, side="right") - 1, 0, len(lines) - 2)
    position = ticks - lines[bar]
    on_line = np.minimum(position, lines[bar + 1] - ticks) <= near
    phase = position % _beat_ticks(score, lines)[bar]
    on_beat = np.minimum(phase, _beat_ticks(score, lines)[bar] - phase) <= near
    return np.where(on_line, BAR, np.where(on_beat, BEAT, OFF_BEAT))


def _beat_ticks(score: Score, lines: np.ndarray) -> np.ndarray:
    """Return the length of a beat in the bar after each line: three eighths in 6/8, 9/8 and 12/8."""
    quarter = int(score.ticks_per_quarter)
    metres = sorted((max(0, int(m.time)), int(m.numerator), int(m.denominator)) for m in score.time_signatures)
    lengths = [float(quarter)]
    for _, above, below in metres:
        compound = below >= 8 and above > 3 and above % 3 == 0
        lengths.append(quarter * 4 / below * (3 if compound else 1))
    at = np.searchsorted([time for time, _, _ in metres], lines, side="right")
    return np.array(lengths)[at]


def set_loudness(score: Score, loudness: Loudness) -> None:
    """Give all notes of a score their loudness, in place."""
    for track in score.tracks:
        program = program_of(track)
        levels = loudness.of(program, accent_places(score, track.notes.numpy()["time"]))
        for note, level in zip(track.notes, levels.tolist(), strict=True):
            note.velocity = level


def measure_loudness(score: Score) -> np.ndarray:
    """Measure the loudness of one song.

    Returns:
        int32 [4n]: program, place, number of notes and their median velocity, one after the other; empty where all
        notes are equally loud.
    """
    levels = {int(level) for track in score.tracks for level in np.unique(track.notes.numpy()["velocity"])}
    rows: list[tuple[int, int, int, int]] = []
    if len(levels) < 2:
        return np.zeros(0, np.int32)
    parts: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for track in score.tracks:
        notes = track.notes.numpy()
        program = program_of(track)
        parts.setdefault(program, []).append((notes["time"].astype(np.int64), notes["velocity"].astype(np.int64)))
    for program, columns in parts.items():
        places = accent_places(score, np.concatenate([ticks for ticks, _ in columns]))
        velocity = np.concatenate([found for _, found in columns])
        for place in range(_PLACES):
            own = velocity[places == place]
            if len(own):
                rows.append((program, place, len(own), int(np.median(own))))
    return np.array(rows, np.int32).ravel()


def sum_loudness(measured: Iterable[np.ndarray | Sequence[int]]) -> Loudness:
    """Combine the loudness of songs, each as `measure_loudness` returns it: the median over their notes."""
    rows = [np.asarray(one, np.int64).reshape(-1, 4) for one in measured]
    table = np.concatenate(rows) if rows else np.zeros((0, 4), np.int64)
    levels = {}
    for program in np.unique(table[:, 0]).tolist():
        own = table[table[:, 0] == program]
        middle = _weighted_median(own[:, 2], own[:, 3])
        defaults = Loudness().of(program, np.arange(_PLACES))
        found = []
        for place in range(_PLACES):
            here = own[own[:, 1] == place]
            accent = int(defaults[place] - defaults[BEAT])
            level = _weighted_median(here[:, 2], here[:, 3]) if len(here) else middle + accent
            found.append(min(127, max(1, level)))
        levels[program] = (found[0], found[1], found[2])
    return Loudness(levels)


def _weighted_median(weights: np.ndarray, values: np.ndarray) -> int:
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    return int(values[order][np.searchsorted(below, below[-1] / 2)])
