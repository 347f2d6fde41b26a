"""Notes and drums of a score as arrays to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from musiclora.music.bars import bar_lines
from musiclora.music.instruments import DRUMS

if TYPE_CHECKING:
    from symusic import Score, Track

LAST_QUARTER = 4096.0  # notes that begin later are not drawn
HIT_QUARTERS = 0.25  # length of a drum as it is drawn


@dataclass(frozen=True)
class Roll:
    """Notes to draw; times in quarter notes.

    Attributes:
        start, duration: float64 [N].
        pitch, velocity, track: int64 [N]; tracks are numbered from 0.
        names: name of each track, empty where it has none; those of the drums come last.
        programs: General MIDI program of each track, DRUMS for drums.
        bars: float64 [M], times of the bar lines; the last lies at or after the end.
        hits: float64 [D, 3], time, General MIDI drum and velocity of the drums.
        marked: first and last time of passages whose bars are highlighted.
    """

    start: np.ndarray
    duration: np.ndarray
    pitch: np.ndarray
    velocity: np.ndarray
    track: np.ndarray
    names: tuple[str, ...]
    programs: tuple[int, ...]
    bars: np.ndarray
    hits: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    marked: tuple[tuple[float, float], ...] = ()

    @property
    def marked_bars(self) -> list[tuple[float, float]]:
        """Return begin and end of the highlighted bars, in quarter notes."""
        found = []
        for first, last in self.marked:
            begin = max(0, int(np.searchsorted(self.bars, first + 1e-3, side="right")) - 1)
            end = min(len(self.bars) - 1, int(np.searchsorted(self.bars, last + 1e-3, side="right")))
            found.append((float(self.bars[begin]), float(self.bars[end])))
        return found

    @property
    def end(self) -> float:
        """Return the end of the last note or drum."""
        return _end_of(self.start + self.duration, self.hits)

    @property
    def count(self) -> int:
        """Return the number of notes and drums."""
        return len(self.start) + len(self.hits)


def roll_of(score: Score, marked: Sequence[tuple[float, float]] = ()) -> Roll:
    """Collect the notes and drums of a symusic Score in ticks, without very late ones.

    Args:
        score: the piece.
        marked: first and last onset in quarter notes of passages whose bars are highlighted.
    """
    drums = [t for t in score.tracks if len(t.notes) and t.is_drum]
    tracks = [t for t in score.tracks if len(t.notes) and not t.is_drum]
    arrays = [t.notes.numpy() for t in tracks]
    quarter = max(1, score.ticks_per_quarter)

    def joined(key: str) -> np.ndarray:
        return np.concatenate([np.asarray(a[key]) for a in arrays]) if arrays else np.zeros(0, np.int64)

    start, duration = joined("time") / quarter, joined("duration") / quarter
    drawn = (start >= 0) & (start < LAST_QUARTER)
    duration = np.minimum(duration, LAST_QUARTER - start)
    number = np.repeat(np.arange(len(arrays)), [len(a["time"]) for a in arrays])
    pitch, velocity = joined("pitch"), joined("velocity")
    hits = _drum_hits(drums, quarter)
    end = _end_of((start + duration)[drawn], hits)
    return Roll(
        start=start[drawn],
        duration=duration[drawn],
        pitch=pitch[drawn],
        velocity=velocity[drawn],
        track=number[drawn],
        names=tuple(" ".join(t.name.split()) for t in [*tracks, *drums]),
        programs=(*(min(127, int(t.program)) for t in tracks), *[DRUMS] * len(drums)),
        bars=np.array(bar_lines(score, math.ceil(end * quarter - 1e-6))) / quarter,
        hits=hits,
        marked=tuple(marked),
    )


def _end_of(ends: np.ndarray, hits: np.ndarray) -> float:
    return float(max(ends.max(initial=0.0), (hits[:, 0] + HIT_QUARTERS).max(initial=0.0)))


def _drum_hits(drums: Sequence[Track], quarter: int) -> np.ndarray:
    columns = [t.notes.numpy() for t in drums]
    rows = [np.stack([a["time"] / quarter, a["pitch"], a["velocity"]], 1) for a in columns]
    hits = np.concatenate([np.zeros((0, 3)), *rows])
    return hits[(hits[:, 0] >= 0) & (hits[:, 0] < LAST_QUARTER)]
