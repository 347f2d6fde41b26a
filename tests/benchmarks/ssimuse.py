"""Small reference of SSIMuse-B (arXiv 2509.13658) for comparison: structural similarity of binary piano rolls.

Written from the paper's description, not from its code: the density term (SSIM's luminance) times the overlap term
(SSIM's structure, for binary rolls the cosine of the two windows), at the best shift, transposition and duration ratio.
"""

from __future__ import annotations

import numpy as np
from copy_songs import Excerpt

STEPS = 4  # columns of the roll in a quarter note
TRANSPOSITIONS = np.arange(-7, 8)
RATIOS = (1 / 2, 2 / 3, 3 / 4, 1.0, 4 / 3, 3 / 2, 2.0)
_CONSTANT = 1e-4


def piano_roll(rows: np.ndarray, low: int, high: int, steps: int) -> np.ndarray:
    """Draw a binary piano roll, float32 [steps, high - low + 1], from rows of onset, pitch, track and duration."""
    roll = np.zeros((steps, high - low + 1), np.float32)
    for onset, pitch, _, duration in rows:
        first = round(onset * STEPS)
        roll[first : max(first + 1, round((onset + duration) * STEPS)), int(pitch) - low] = 1
    return roll


def similarities(piece: Excerpt, song: Excerpt) -> np.ndarray:
    """Compute the best SSIMuse-B of each bar of a piece with a song, float32 [bars].

    A window holds one bar of the piece, whose durations are multiplied by each ratio.
    """
    margin = int(TRANSPOSITIONS.max())
    pitches = np.concatenate((piece.rows[:, 1], song.rows[:, 1]))
    low, high = int(pitches.min()) - margin, int(pitches.max()) + margin
    shifts = round(song.bars * song.bar * STEPS)
    roll = piano_roll(song.rows, low, high, 2 * shifts)
    best = np.zeros(piece.bars, np.float32)
    for ratio in RATIOS:
        width = round(piece.bar * ratio * STEPS)
        windows = np.lib.stride_tricks.sliding_window_view(roll, width, axis=0)[:shifts]  # [shifts, P, width]
        moved = np.stack([np.roll(windows, -shift, 1).reshape(shifts, -1) for shift in TRANSPOSITIONS])
        own = _windows_of(piece, ratio, width, low, high)
        overlap = (own @ moved.reshape(-1, own.shape[1]).T).reshape(len(own), len(TRANSPOSITIONS), -1).max(1)
        density, own_density = windows.sum((1, 2))[None], own.sum(1)[:, None]
        product = own_density * density
        luminance = (2 * product + _CONSTANT) / (own_density**2 + density**2 + _CONSTANT)
        best = np.maximum(best, (overlap / np.sqrt(np.maximum(product, 1e-6)) * luminance).max(1))
    return best


def _windows_of(piece: Excerpt, ratio: float, width: int, low: int, high: int) -> np.ndarray:
    """Cut the piece with its durations changed into windows at its bar lines, float32 [bars, P x width]."""
    rows = piece.rows.copy()
    rows[:, [0, 3]] *= ratio
    starts = [round(piece.bar * ratio * bar * STEPS) for bar in range(piece.bars)]
    roll = piano_roll(rows, low, high, starts[-1] + width)
    return np.stack([roll[start : start + width].T.reshape(-1) for start in starts])


def score(piece: Excerpt, song: Excerpt) -> tuple[float, float]:
    """Return the mean over the piece's bars of the best similarity, and the mean of its two best bars in a row."""
    bars = similarities(piece, song)
    return float(bars.mean()), float(np.convolve(bars, [0.5, 0.5], "valid").max())
