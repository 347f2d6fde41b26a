"""Weights of songs in training: how often each unit of a song is drawn, so that every song counts the same."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

BY_TOKENS, BY_SONGS = "tokens", "songs"
WEIGHINGS = (BY_TOKENS, BY_SONGS)


def song_factors(songs: Sequence[Hashable], targets: Sequence[int]) -> np.ndarray:
    """Compute how often each unit has to be trained on for all songs to have the same number of targets.

    The targets of an epoch stay as many as without weights: each song gets the mean over the songs.

    Args:
        songs: the song that each unit belongs to; its copies and segments share one.
        targets: scored targets of each unit.

    Returns:
        Expected visits in an epoch, float64 [n]; 0 for the units of a song without targets.
    """
    number_of = {song: number for number, song in enumerate(dict.fromkeys(songs))}
    numbers = np.array([number_of[song] for song in songs])
    totals = np.bincount(numbers, targets)
    share = totals.sum() / max(1, np.count_nonzero(totals))
    factors: np.ndarray = share / np.maximum(totals, 1)[numbers] * (totals > 0)[numbers]
    return factors


def draw_visits(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw whole numbers of visits whose expectations are given and whose sum is always the same.

    Systematic sampling: a comb with the spacing 1 and one random offset lies over the cumulated expectations.

    Args:
        expected: visits, float64 [n], with a whole sum.
        rng: draws the offset.

    Returns:
        int64 [n], each within 1 of its expectation.
    """
    total = round(float(expected.sum()))
    ends = np.cumsum(expected)
    ends[-1] = total  # the last tooth must not be lost to rounding
    teeth = np.arange(total) + rng.random()
    return np.bincount(np.searchsorted(ends, teeth, side="right"), minlength=len(expected))


def keep_some(scored: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Keep a share of the targets, drawn at random; its expectation is exact for any number of targets.

    Args:
        scored: bool [n], True for targets.
        share: in (0, 1].
        rng: draws.
    """
    at = np.flatnonzero(scored)
    number = min(len(at), int(share * len(at) + rng.random()))
    kept = np.zeros_like(scored)
    kept[rng.choice(at, number, replace=False)] = True
    return kept
