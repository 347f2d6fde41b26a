"""Notes of a piece with everything that the style card measures, and excerpts of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

CHORD_QUARTERS = 1 / 16  # onsets closer than this are one chord


@dataclass(frozen=True, eq=False)
class PieceEvents:
    """Notes of one piece in order of time.

    Attributes:
        name: name of the piece, for messages.
        onsets, durations: float64 [n], quarter notes.
        pitches, velocities: int64 [n], 0..127.
        programs: int64 [n], 0..127, -1 for drums.
        tracks: int64 [n], number of the note's track.
        bar_starts: float64 [bars], quarter notes, ascending, the first at or before every onset.
    """

    name: str
    onsets: np.ndarray
    durations: np.ndarray
    pitches: np.ndarray
    velocities: np.ndarray
    programs: np.ndarray
    tracks: np.ndarray
    bar_starts: np.ndarray

    def __len__(self) -> int:
        return len(self.onsets)

    @property
    def length(self) -> float:
        """Quarter notes from the first onset to the last end; 0 without notes."""
        return float((self.onsets + self.durations).max() - self.onsets[0]) if len(self) else 0.0

    def select(self, chosen: np.ndarray) -> PieceEvents:
        """Keep some notes.

        Args:
            chosen: bool [n], or indices.
        """
        notes = {
            name: getattr(self, name)[chosen]
            for name in ("onsets", "durations", "pitches", "velocities", "programs", "tracks")
        }
        return replace(self, **notes)

    @property
    def pitched(self) -> PieceEvents:
        """The piece without drums."""
        return self.select(self.programs >= 0)


def piece_events(
    name: str, rows: Sequence[tuple[float, float, int, int, int, int]], bar_starts: Sequence[float] | np.ndarray
) -> PieceEvents:
    """Build PieceEvents from rows in any order.

    Args:
        name: name of the piece.
        rows: onset and duration in quarter notes, pitch, velocity, program (-1 for drums), track.
        bar_starts: bar lines in quarter notes, ascending.
    """
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 6)
    table = table[np.lexsort((table[:, 2], table[:, 0]))].T.copy()
    pitches, velocities, programs, tracks = (part.astype(np.int64) for part in table[2:])
    starts = np.asarray(bar_starts, dtype=np.float64)
    bars = starts if len(starts) else np.zeros(1)
    return PieceEvents(name, table[0], table[1], pitches, velocities, programs, tracks, bars)


def take_excerpt(piece: PieceEvents, quarters: float) -> PieceEvents:
    """Keep the notes that begin in the first quarter notes of a piece, counted from its first onset.

    Args:
        piece: at least one note.
        quarters: length of the excerpt.
    """
    return piece.select(piece.onsets < piece.onsets[0] + quarters - CHORD_QUARTERS / 2)
