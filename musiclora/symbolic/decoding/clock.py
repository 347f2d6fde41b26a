"""Clock of a score: ticks to seconds and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from symusic import Score

_DEFAULT_QPM = 120.0  # of MIDI files without a tempo


class Clock:
    """Tempo map of a score in both directions; after the last tempo change the tempo stays."""

    def __init__(self, score: Score) -> None:
        quarter = int(score.ticks_per_quarter)
        changes = {0: _DEFAULT_QPM} | {max(0, int(t.time)): float(t.qpm) for t in score.tempos}
        self._ticks = np.array(sorted(changes), np.float64)
        self._pace = np.array([60 / (changes[int(tick)] * quarter) for tick in self._ticks])  # seconds of a tick
        self._seconds = np.concatenate([[0.0], np.cumsum(np.diff(self._ticks) * self._pace[:-1])])

    def seconds(self, ticks: np.ndarray | float) -> np.ndarray:
        """Return the seconds of ticks, float64 of the same shape."""
        at = np.clip(np.searchsorted(self._ticks, ticks, side="right") - 1, 0, None)
        found: np.ndarray = self._seconds[at] + (np.asarray(ticks) - self._ticks[at]) * self._pace[at]
        return found

    def ticks(self, seconds: np.ndarray | float) -> np.ndarray:
        """Return the ticks of seconds, float64 of the same shape."""
        at = np.clip(np.searchsorted(self._seconds, seconds, side="right") - 1, 0, None)
        found: np.ndarray = self._ticks[at] + (np.asarray(seconds) - self._seconds[at]) / self._pace[at]
        return found
