"""Notes of a piece as arrays, and the melodic lines that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CHORD_QUARTERS = 1 / 16  # onsets closer than this are one chord


@dataclass(frozen=True, eq=False)
class NoteList:
    """Pitched notes of one piece, without drums.

    Attributes:
        name: name of the piece, for messages.
        onsets: float64 [n], quarter notes from the start of the piece, ascending.
        pitches: int16 [n], MIDI pitch.
        tracks: int16 [n], number of the note's track.
        bar_starts: float64 [bars], quarter notes, ascending, the first at or before every onset.
    """

    name: str
    onsets: np.ndarray
    pitches: np.ndarray
    tracks: np.ndarray
    bar_starts: np.ndarray

    def __len__(self) -> int:
        return len(self.onsets)

    def bar_of(self, onset: float) -> int:
        """Return the number of the bar that an onset lies in, from 1 on; an onset just before a bar line is in it."""
        return max(1, int(np.searchsorted(self.bar_starts, onset + CHORD_QUARTERS / 2, side="right")))


def note_list(
    name: str, notes: Sequence[tuple[float, int, int]] | np.ndarray, bar_starts: Sequence[float] | np.ndarray
) -> NoteList:
    """Build a NoteList from (onset, pitch, track) rows in any order.

    Args:
        name: name of the piece.
        notes: float [n, 3]: onset in quarter notes, MIDI pitch, track.
        bar_starts: bar lines in quarter notes, ascending.
    """
    rows = np.asarray(notes, dtype=np.float64).reshape(-1, 3)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    starts = np.asarray(bar_starts, dtype=np.float64)
    return NoteList(
        name,
        np.ascontiguousarray(rows[:, 0]),
        rows[:, 1].astype(np.int16),
        rows[:, 2].astype(np.int16),
        starts if len(starts) else np.zeros(1),
    )


def melodic_lines(piece: NoteList) -> list[np.ndarray]:
    """List the lines of a piece: the skyline, and the highest and the lowest line of each track.

    The skyline holds the highest note of each onset (Uitdenbogerd and Zobel 1999). Lines that repeat an earlier one
    are left out.

    Returns:
        Note indices of each line, int64 [m], in order of time.
    """
    every = np.arange(len(piece))
    lines = [_outer_line(piece, every, highest=True)]
    for track in np.unique(piece.tracks):
        own = every[piece.tracks == track]
        lines += [_outer_line(piece, own, highest=True), _outer_line(piece, own, highest=False)]
    distinct = {line.tobytes(): line for line in lines}
    return list(distinct.values())


def _outer_line(piece: NoteList, notes: np.ndarray, *, highest: bool) -> np.ndarray:
    """Return the highest or lowest note of each chord of some notes, int64 [m]."""
    if not len(notes):
        return notes
    onsets = piece.onsets[notes]
    chord = np.concatenate(([0], np.cumsum(np.diff(onsets) >= CHORD_QUARTERS)))
    pitches = piece.pitches[notes].astype(np.int64)
    order = np.lexsort((-pitches if highest else pitches, chord))
    first = np.unique(chord[order], return_index=True)[1]
    return notes[order[first]]
