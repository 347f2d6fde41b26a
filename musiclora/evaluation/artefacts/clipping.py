"""Clipped samples: flat tops at full scale or at a recording's own peak, and samples beyond full scale."""

from __future__ import annotations

import numpy as np

_FLAT_SAMPLES = 3  # equal samples at full scale that count as clipped
_FINE_KINDS = ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
_JUMP_OF_PEAK, _JUMP_STEPS = 1e-3, 4  # least difference before a flat top: share of the peak, steps of 16 bits


def clipped_samples(block: np.ndarray) -> int:
    """Count samples [n, channels] on flat tops at full scale, or beyond it."""
    size = np.abs(block)
    beyond = size > 1.0001
    top = (size >= 0.9999) & ~beyond
    if not top.any():
        return int(beyond.sum())
    same = top[1:] & top[:-1] & (block[1:] == block[:-1])
    run = same[: 1 - _FLAT_SAMPLES + 1] & same[_FLAT_SAMPLES - 2 :]  # starts of three equal samples
    flat = np.zeros(block.shape, bool)
    for shift in range(_FLAT_SAMPLES):
        flat[shift : shift + len(run)] |= run
    return int((flat | beyond).sum())


class FlatTops:
    """Count of samples on flat tops at a recording's own peak, as clipping leaves them when the level changes later.

    Attributes:
        count: samples in runs of equal values at the peak of their channel.
    """

    def __init__(self, kind: str) -> None:
        """Begin with nothing; coarse encodings are not counted, since their steps are flat everywhere."""
        self.count, self._counts, self._peaks = 0, np.zeros(0, int), np.zeros(0)
        self._fine = kind in _FINE_KINDS

    def add(self, block: np.ndarray) -> None:
        """Count a block [n, channels]."""
        if not self._fine or len(block) < _FLAT_SAMPLES + 1:
            return
        if not len(self._peaks):
            self._counts, self._peaks = np.zeros(block.shape[1], int), np.zeros(block.shape[1])
        for channel in range(block.shape[1]):
            size = np.abs(block[:, channel])
            peak = float(size.max())
            if peak > self._peaks[channel]:
                self._peaks[channel], self._counts[channel] = peak, 0
            if peak and peak == self._peaks[channel]:
                self._counts[channel] += _flat_samples(block[:, channel], size == peak)
        self.count = int(self._counts.sum())


def _flat_samples(samples: np.ndarray, at_peak: np.ndarray) -> int:
    """Count samples of runs of at least three equal ones at the peak that begin with a jump.

    A loud low tone stays at its crest for some samples as well, but comes to it by single steps.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], at_peak, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    jumps = np.abs(samples[starts] - samples[np.maximum(starts - 1, 0)])
    chosen = (ends - starts >= _FLAT_SAMPLES) & (starts > 0)
    chosen &= jumps > np.maximum(_JUMP_OF_PEAK * np.abs(samples[starts]), _JUMP_STEPS / 32768)
    return int((ends - starts)[chosen].sum())


def clipped_share(samples: np.ndarray, kind: str) -> float:
    """Compute the share of clipped samples, as the health table of recordings defines them.

    Args:
        samples: float [n, channels], 1 for full scale.
        kind: encoding of the file, such as PCM_16; flat tops below full scale count only in fine ones.
    """
    tops = FlatTops(kind)
    tops.add(samples)
    return max(clipped_samples(samples), tops.count) / max(1, samples.size)
