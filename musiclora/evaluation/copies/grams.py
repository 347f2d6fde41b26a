"""Melodic n-grams: intervals and classes of inter-onset ratios of consecutive notes, as integer keys."""

from __future__ import annotations

import numpy as np

GRAM_NOTES = 6  # five intervals and four ratios
_LARGEST_INTERVAL = 31  # semitones; larger leaps count as this
_RATIO_EDGE = 0.74  # log2: between an even or dotted rhythm and a ratio of 2, as far from both as jitter may move them
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def gram_keys(onsets: np.ndarray, pitches: np.ndarray) -> np.ndarray:
    """Compute the key of each n-gram of one line; keys are equal under transposition and change of tempo.

    Args:
        onsets: float64 [m], quarter notes, ascending.
        pitches: int [m].

    Returns:
        uint64 [m - 5], empty for a shorter line. Bits 0 to 29 hold the intervals, 30 to 37 the ratio classes (shorter,
        about equal, longer), so that different n-grams have different keys.
    """
    count = len(onsets) - GRAM_NOTES + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    intervals = np.clip(np.diff(pitches.astype(np.int64)), -_LARGEST_INTERVAL, _LARGEST_INTERVAL) + _LARGEST_INTERVAL
    steps = np.log2(np.maximum(np.diff(onsets), 1e-6))
    ratios = np.digitize(np.diff(steps), (-_RATIO_EDGE, _RATIO_EDGE))
    keys = np.zeros(count, np.uint64)
    for place in range(GRAM_NOTES - 1):
        keys |= intervals[place : place + count].astype(np.uint64) << np.uint64(6 * place)
    for place in range(GRAM_NOTES - 2):
        keys |= ratios[place : place + count].astype(np.uint64) << np.uint64(30 + 2 * place)
    return keys


def hash_keys(keys: np.ndarray) -> np.ndarray:
    """Hash n-gram keys (the finaliser of SplitMix64, Steele et al. 2014).

    Args:
        keys: uint64 [m].

    Returns:
        uint32 [m], the upper half of the hash.
    """
    mixed = keys * _GOLDEN
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ mixed >> np.uint64(shift)) * np.uint64(factor)
    return np.asarray((mixed ^ mixed >> np.uint64(31)) >> np.uint64(32), dtype=np.uint32)


def format_notes(low: int, high: int, unit: str = "") -> str:
    """Format a range of match lengths, such as '7 to 12'; lengths below an n-gram are not known and are 0.

    Args:
        low, high: the least and the greatest, in notes.
        unit: what is added, such as ' notes'.
    """
    if not high:
        return f"below {GRAM_NOTES}{unit}"
    if low == high:
        return f"{high}{unit}"
    return f"{low} to {high}{unit}" if low else f"up to {high}{unit}"
