"""Held-out scores: loss, perplexity and bits a note, one definition everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.backends.base import LossSum


@dataclass(frozen=True)
class Score:
    """How well a model predicts some songs.

    Attributes:
        loss: nats a token, summed over all scored tokens and divided by their number.
        perplexity: e to the loss.
        bits_per_note: nats of all scored tokens / ln 2 / notes; comparable between tokenizers.
        tokens: scored tokens, end-of-piece included.
        notes: notes in the songs.
    """

    loss: float
    perplexity: float
    bits_per_note: float
    tokens: int
    notes: int


def score(total: LossSum, notes: int) -> Score:
    """Score of a summed loss over songs that hold so many notes."""
    bits = total.total / math.log(2) / notes if notes else float("nan")
    perplexity = math.exp(total.mean) if total.mean < 700 else float("inf")
    return Score(total.mean, perplexity, bits, int(total.weight), notes)


@dataclass(frozen=True)
class Gain:
    """Bits a note gained per song, base minus adapted.

    Attributes:
        mean: weighted by notes, so that it equals the difference of the two scores.
        low, high: 95 % interval of the mean by bootstrap over songs (2,000 resamples, percentile).
        songs: how many there were.
    """

    mean: float
    low: float
    high: float
    songs: int

    @property
    def verdict(self) -> str:
        """`gained`, `nothing gained` or `lost`, by whether the interval excludes zero."""
        if self.songs < 2:
            return "gained" if self.mean > 0.05 else "nothing gained"
        if self.low > 0:
            return "gained"
        return "lost" if self.high < 0 else "nothing gained"


def gain(before: Sequence[LossSum], after: Sequence[LossSum], notes: Sequence[int], seed: int = 0) -> Gain:
    """Gain in bits a note over the same songs, with its spread over songs.

    Args:
        before, after: one sum a song.
        notes: notes of each song.
        seed: of the bootstrap.
    """
    bits = np.array([(b.total - a.total) / math.log(2) for b, a in zip(before, after, strict=True)])
    counts = np.array(notes, float)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(bits), (2000, len(bits)))
    means = bits[chosen].sum(1) / np.maximum(counts[chosen].sum(1), 1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Gain(float(bits.sum() / max(counts.sum(), 1)), float(low), float(high), len(bits))
