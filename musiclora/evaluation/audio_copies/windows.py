"""Similarity of every window of one recording with every window of another."""

from __future__ import annotations

import numpy as np

from musiclora.evaluation.audio_copies.features import WINDOW_FRAMES

_BLOCK_FRAMES = 512  # windows of the piece at a time, which bounds the memory
_LEAST_SPREAD = 0.1  # of the mean spread: held notes and silence vary less, and would agree with each other


def best_windows(piece: np.ndarray, song: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the most similar window of a song for each window of a piece.

    The similarity is the cosine of two windows, each band centred over its window. Gain and filters, which add a
    constant to each band of a logarithmic spectrum, then do not count.

    Args:
        piece: float32 [P, B] with P >= 22.
        song: float32 [S, B] with S >= 22.

    Returns:
        Similarity float32 [P - 21], -1 to 1, and the first frame of the song's window int64 [P - 21].
    """
    size = WINDOW_FRAMES
    means, other_means = _window_sums(piece) / size, _window_sums(song) / size
    norms, other_norms = _spreads(piece, means), _spreads(song, other_means)
    scores, places = [], []
    for start in range(0, len(means), _BLOCK_FRAMES):
        stop = min(start + _BLOCK_FRAMES, len(means))
        products = piece[start : stop + size - 1] @ song.T
        summed = sum(products[shift : shift + stop - start, shift : shift + len(other_means)] for shift in range(size))
        cosines = (summed - size * (means[start:stop] @ other_means.T)) / np.outer(norms[start:stop], other_norms)
        places.append(cosines.argmax(axis=1))
        scores.append(cosines.max(axis=1))
    return np.concatenate(scores).astype(np.float32), np.concatenate(places)


def _window_sums(rows: np.ndarray) -> np.ndarray:
    """Sum over each window: float32 [T, B] to float32 [T - 21, B]."""
    total = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0, dtype=np.float64)])
    sums: np.ndarray = (total[WINDOW_FRAMES:] - total[:-WINDOW_FRAMES]).astype(np.float32)
    return sums


def _spreads(rows: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Compute the norm of each centred window, float32 [T - 21], with a floor."""
    energy = _window_sums(np.square(rows)).sum(axis=1) - WINDOW_FRAMES * np.square(means).sum(axis=1)
    norms = np.sqrt(np.maximum(energy, 0))
    floor = max(_LEAST_SPREAD * float(norms.mean()), 1e-6)
    floored: np.ndarray = np.maximum(norms, floor).astype(np.float32)
    return floored
