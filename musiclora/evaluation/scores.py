"""Held-out scores and gains: loss, perplexity and bits a note of tokens; velocity loss of latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import Field, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

import numpy as np

from musiclora.backends.base import Arrays, LossSum, Model
from musiclora.errors import DataError
from musiclora.progress import OnProgress

T = TypeVar("T")

# Fewer songs carry no verdict: that all of five gain or all lose is chance in one of sixteen cases (sign test).
LEAST_SONGS = 6


class HeldOutScore(Protocol):
    """Score of a model on held-out music, a dataclass; Score and FlowScore are its two kinds.

    Attributes:
        loss: mean loss of a scored target.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def loss(self) -> float: ...

    @staticmethod
    def heading() -> str:
        """Return the names of the columns of row."""

    def row(self) -> str:
        """Format the score as a line of a table."""

    def describe_change(self, after: Self) -> str:
        """Format the difference between this score and a later one."""


@dataclass(frozen=True)
class Score:
    """Score of a token model on songs.

    Attributes:
        loss: nats a token, summed over all scored tokens and divided by their number.
        perplexity: e to the loss.
        bits_per_note: nats of all scored tokens / ln 2 / notes. All tokens count, those of bars and RESTs too, so that
            models with different tokens compare, as far as the tokens describe the same notes on a like grid: a finer
            grid (10 ms against 24 steps a quarter), and tokens of loudness, tempo or instrument, cost bits that
            coarser tokens do not spend.
        tokens: scored tokens, end-of-piece and RESTs included.
        notes: notes in the songs.
    """

    loss: float
    perplexity: float
    bits_per_note: float
    tokens: int
    notes: int

    @staticmethod
    def heading() -> str:
        """Return the names of the columns of row."""
        return f"{'loss':>9}{'perplexity':>12}{'bits a note':>13}{'tokens':>10}"

    def row(self) -> str:
        """Format the score as a line of a table."""
        return f"{self.loss:9.4f}{self.perplexity:12.2f}{self.bits_per_note:13.3f}{self.tokens:10d}"

    def describe_change(self, after: Score) -> str:
        """Format 'held-out loss 1.2 -> 1.1, bits a note 4.7 -> 4.5'."""
        return (
            f"held-out loss {self.loss:.4f} -> {after.loss:.4f}, "
            f"bits a note {self.bits_per_note:.3f} -> {after.bits_per_note:.3f}"
        )


@dataclass(frozen=True)
class FlowScore:
    """Score of a flow model on recordings.

    Attributes:
        loss: squared error of the velocity, averaged over all latent values of all scored windows and times.
        frames: latent frames scored, counted once for each window and time.
    """

    loss: float
    frames: int

    @staticmethod
    def heading() -> str:
        """Return the names of the columns of row."""
        return f"{'loss':>9}{'frames':>10}"

    def row(self) -> str:
        """Format the score as a line of a table."""
        return f"{self.loss:9.4f}{self.frames:10d}"

    def describe_change(self, after: FlowScore) -> str:
        """Format 'held-out loss 1.2 -> 1.1'."""
        return f"held-out loss {self.loss:.4f} -> {after.loss:.4f}"


if TYPE_CHECKING:

    def _score_kinds(tokens: Score, latents: FlowScore) -> tuple[HeldOutScore, HeldOutScore]:
        return tokens, latents


def flow_score(total: LossSum, channels: int) -> FlowScore:
    """Build the score of a summed loss over latents with a number of channels.

    Raises:
        DataError: there is nothing to score.
    """
    if not total.weight:
        raise DataError("there is nothing to score: no latent frame is left")
    return FlowScore(total.mean, round(total.weight / channels))


def token_score(total: LossSum, notes: int) -> Score:
    """Build the score of a summed loss over songs with a number of notes.

    Raises:
        DataError: there is nothing to score.
    """
    if not total.weight or not notes:
        raise DataError(f"there is nothing to score: {notes} notes make {total.weight:g} tokens")
    bits = total.total / math.log(2) / notes
    perplexity = math.exp(total.mean) if total.mean < 700 else float("inf")
    return Score(total.mean, perplexity, bits, int(total.weight), notes)


@dataclass(frozen=True)
class Gain:
    """Gain over songs, base minus adapted: bits a note, or loss a latent value.

    Attributes:
        mean: weighted by notes, or by latent values, so that it equals the difference of the two scores.
        low, high: 95 % interval of the mean by bootstrap over songs (2,000 resamples, percentile); None for fewer than
            LEAST_SONGS songs.
        songs: number of songs, or of recordings; near duplicates, and segments of one recording, count once.
        unit: `bits a note` or `loss`.
        by_song: for each song the gain over all its notes, or values, and their number.
    """

    mean: float
    low: float | None
    high: float | None
    songs: int
    unit: str = "bits a note"
    by_song: tuple[tuple[float, float], ...] = field(default=(), repr=False, compare=False)

    @property
    def verdict(self) -> str:
        """`gained` or `lost` where the interval excludes zero, else `nothing gained`; `too few songs` without one."""
        if self.low is None or self.high is None:
            return f"too few {self.pieces}"
        if self.low > 0:
            return "gained"
        return "lost" if self.high < 0 else "nothing gained"

    @property
    def pieces(self) -> str:
        """`songs`, or `recordings` where the loss of latents is compared."""
        return "recordings" if self.unit == "loss" else "songs"

    @property
    def counted(self) -> str:
        """Format the number of songs or recordings."""
        return count_pieces(self.songs, self.pieces)

    def describe(self, digits: int = 3) -> str:
        """Format 'gain 0.250 bits a note (95 % over 40 songs: 0.180 to 0.320)' with a number of decimals."""
        rises = self.unit == "loss" and self.mean < 0
        sign = -1 if rises else 1
        words = f"loss {'raised' if rises else 'lowered'} by" if self.unit == "loss" else "gain"
        unit = "" if self.unit == "loss" else f" {self.unit}"
        mean = _format_number(sign * self.mean, digits)
        if self.low is None or self.high is None:
            return f"{words} {mean}{unit} over {self.counted}, too few for an interval"
        low, high = (_format_number(value, digits) for value in sorted((sign * self.low, sign * self.high)))
        return f"{words} {mean}{unit} (95 % over {self.counted}: {low} to {high})"


def _format_number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # the sum makes a zero of -0.0


def count_pieces(number: int, pieces: str = "songs") -> str:
    """Format a number of songs or recordings: `1 song`, `12 songs`."""
    return f"{number:,} {pieces.removesuffix('s') if number == 1 else pieces}"


def token_gain(
    before: Sequence[LossSum],
    after: Sequence[LossSum],
    notes: Sequence[int],
    clusters: Sequence[int] | None = None,
    seed: int = 0,
) -> Gain:
    """Compute the gain in bits a note over the same songs, with a bootstrap interval over their clusters.

    Args:
        before, after: one sum a song.
        notes: notes of each song.
        clusters: the cluster of near duplicates of each song; None where every song is another.
        seed: of the bootstrap.
    """
    bits = np.array([(b.total - a.total) / math.log(2) for b, a in zip(before, after, strict=True)])
    sums, counts = _sum_groups(bits, np.array(notes, float), clusters)
    return bootstrap_gain(sums, counts, "bits a note", seed)


def flow_gain(
    before: Sequence[LossSum], after: Sequence[LossSum], recordings: Sequence[str] | None = None, seed: int = 0
) -> Gain:
    """Compute the gain in loss over the same recordings, with a bootstrap interval over recordings.

    Args:
        before, after: one sum a segment.
        recordings: the recording of each segment; None where every segment is a recording.
        seed: of the bootstrap.
    """
    errors = np.array([b.total - a.total for b, a in zip(before, after, strict=True)])
    values = np.array([b.weight for b in before])
    return bootstrap_gain(*_sum_groups(errors, values, recordings), "loss", seed)


def _sum_groups(
    sums: np.ndarray, counts: np.ndarray, groups: Sequence[str] | Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Add up the sums [N] and counts [N] of each group; None leaves them apart."""
    if groups is None:
        return sums, counts
    _, number = np.unique(np.array(groups), return_inverse=True)
    return np.bincount(number, sums), np.bincount(number, counts)


def bootstrap_gain(sums: np.ndarray, counts: np.ndarray, unit: str, seed: int = 0) -> Gain:
    """Compute a mean gain over songs with its bootstrap interval.

    Args:
        sums: gain of each song over all its notes or values, [N].
        counts: its notes or values, [N].
        unit: `bits a note` or `loss`.
        seed: of the bootstrap.
    """
    mean, songs = float(sums.sum() / max(counts.sum(), 1)), len(sums)
    by_song = tuple(zip(sums.tolist(), counts.tolist(), strict=True))
    if songs < LEAST_SONGS:
        return Gain(mean, None, None, songs, unit, by_song)
    chosen = np.random.default_rng(seed).integers(0, songs, (2000, songs))
    means = sums[chosen].sum(1) / np.maximum(counts[chosen].sum(1), 1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Gain(mean, float(low), float(high), songs, unit, by_song)


def song_losses(model: Model, batches: Sequence[Sequence[Arrays]], on_song: OnProgress | None = None) -> list[LossSum]:
    """Sum the loss of each song over its own batches.

    Raises:
        DataError: the loss of a song is infinite or undefined.
    """
    sums = []
    for number, song in enumerate(batches, 1):
        sums.append(total_loss([model.loss(batch) for batch in song]))
        if not math.isfinite(sums[-1].total):
            raise DataError(
                f"the loss of song {number} of {len(batches)} is not finite: this model, or an adapter at this "
                "strength, computes infinite values; check its weights, or take float32"
            )
        if on_song is not None:
            on_song(number, len(batches))
    return sums


def pick(values: Sequence[T], numbers: Sequence[int]) -> list[T]:
    """Return some of the values, by number."""
    return [values[number] for number in numbers]


def total_loss(parts: Sequence[LossSum]) -> LossSum:
    """Sum of sums."""
    return LossSum(sum(p.total for p in parts), sum(p.weight for p in parts))
