"""Songs of arrival-time tokens for tests."""

from __future__ import annotations

import numpy as np

from musiclora.symbolic.tokens.arrival import DRUM_INSTRUMENT, DUR_OFFSET, NOTE_OFFSET


def song_of(gaps, seed=0, instruments=4):
    """Build a song with some gaps in steps between its events; the last instrument is drums."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(np.asarray(gaps, np.int64))
    programs = np.append(np.arange(instruments - 1), DRUM_INSTRUMENT)[rng.integers(0, instruments, len(times))]
    notes = NOTE_OFFSET + 128 * programs + rng.integers(30, 90, len(times))
    durations = DUR_OFFSET + rng.integers(0, 300, len(times))
    return np.stack([times, durations, notes], axis=1).astype(np.int32).ravel()
