"""Pieces: tokenised songs, the unit that is split, packed and trained on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


def _no_pitches() -> np.ndarray:
    return np.zeros(0, np.int16)


@dataclass(frozen=True)
class Piece:
    """One tokenised song.

    Attributes:
        name: what to call it in messages.
        group: the song that it is, or is a copy of.
        tokens: int32 [n] without BOS and EOS.
        notes: how many notes the tokens decode to.
        is_original: False for a copy that augment made.
        pitches: the melody, the highest note at each onset, int16 [m]; near duplicates are found by it.
        tune: number inside a file of many tunes, else 0.
    """

    name: str
    group: str
    tokens: np.ndarray
    notes: int
    is_original: bool = True
    pitches: np.ndarray = field(default_factory=_no_pitches)
    tune: int = 0
