"""Notes of a score as arrays, in the order of their arrival-time events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from musiclora.symbolic.tokens.arrival import EVENT_TOKENS, ArrivalTokenizer

if TYPE_CHECKING:
    from symusic import Score


@dataclass(frozen=True)
class ScoreNotes:
    """Notes of a score in ticks, each with its event.

    Attributes:
        track: index of the note's track, int64 [n].
        tick: onset, int64 [n].
        events: step, id of the duration, id of the note, int64 [n, 3].
    """

    track: np.ndarray
    tick: np.ndarray
    events: np.ndarray


def list_notes(score: Score) -> ScoreNotes:
    """List the notes of a score in the order in which `ArrivalTokenizer` writes them, those of all instruments."""
    events = ArrivalTokenizer().encode_held(score).astype(np.int64).reshape(-1, EVENT_TOKENS)
    columns = [track.notes.numpy()["time"].astype(np.int64) for track in score.tracks]
    tick = np.concatenate([np.zeros(0, np.int64), *columns])
    track = np.repeat(np.arange(len(columns)), [len(column) for column in columns])
    order = np.argsort(tick, kind="stable")
    return ScoreNotes(track[order], tick[order], events)
