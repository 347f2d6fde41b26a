"""Seconds of a score's ticks, summed as a sequencer plays them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from symusic import Score

_DEFAULT_MICROSECONDS = 500_000  # of a quarter, where a file has no tempo
_SCORE_ARRAYS = ("tempos", "time_signatures", "key_signatures")
_TRACK_ARRAYS = ("controls", "pitch_bends")


class TempoMap:
    """Time in seconds of each tick at which a score has an event.

    Seconds are the sum of the lengths of time between one event and the next, in float64 and in order of time. Another
    order of summing differs in the last bit, and then in a rounded centisecond wherever a note begins half-way between
    two.

    Attributes:
        ticks: ascending ticks of all events, int64 [n]; the first is 0.
        seconds: their times, float64 [n].
    """

    def __init__(self, score: Score) -> None:
        tempos = score.tempos.numpy()
        at = tempos["time"].astype(np.int64)
        order = np.argsort(at, kind="stable")
        microseconds = np.concatenate([[_DEFAULT_MICROSECONDS], tempos["mspq"][order]])
        self.ticks = _event_ticks(score)
        tempo = microseconds[np.searchsorted(at[order], self.ticks[:-1], side="right")]
        lengths = np.diff(self.ticks) * (tempo * 1e-6 / score.ticks_per_quarter)
        self.seconds = np.concatenate([[0.0], np.cumsum(lengths)])

    def at(self, ticks: np.ndarray) -> np.ndarray:
        """Return the seconds of ticks of events, int [n] -> float64 [n]."""
        found: np.ndarray = self.seconds[np.searchsorted(self.ticks, ticks)]
        return found


def _event_ticks(score: Score) -> np.ndarray:
    """List the different ticks from 0 on at which anything happens, int64 [n], ascending."""
    columns = [np.zeros(1, np.int64)]
    columns += [getattr(score, name).numpy()["time"] for name in _SCORE_ARRAYS]
    texts = [event.time for event in score.markers]
    for track in score.tracks:
        columns += [getattr(track, name).numpy()["time"] for name in _TRACK_ARRAYS]
        texts += [event.time for event in track.lyrics]
        for spans in (track.notes.numpy(), track.pedals.numpy()):
            start = spans["time"].astype(np.int64)
            columns += [start, start + spans["duration"]]
    ticks = np.sort(np.concatenate([*columns, np.array(texts, np.int64)]))
    new = np.concatenate([[True], np.diff(ticks) > 0])  # np.unique hashes, which takes longer
    return ticks[new & (ticks >= 0)]
