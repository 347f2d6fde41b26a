"""Rows of tokens for training and scoring, and training data that changes its key from epoch to epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musiclora.backends.base import Arrays
from musiclora.data.augment import transpositions
from musiclora.data.batches import BatchPlan
from musiclora.data.pieces import Piece
from musiclora.data.tokenizer import MusicTokenizer


def batch_plan(pieces: Sequence[Piece], tokenizer: MusicTokenizer, length: int, rows: int, seed: int) -> BatchPlan:
    """Rows and batches of some pieces."""
    return BatchPlan(list(pieces), length, rows, seed, bos=tokenizer.bos_id, eos=tokenizer.eos_id, pad=tokenizer.pad_id)


def song_batches(pieces: Sequence[Piece], tokenizer: MusicTokenizer, length: int) -> list[list[Arrays]]:
    """Batches of each song on its own, for scores by song."""
    return [list(batch_plan([p], tokenizer, length, 4, 0).batches(0)) for p in pieces]


class TransposedEpochs:
    """Batches in which every piece stands in a key drawn anew each epoch, by seed, epoch and place in the list.

    A transposition exchanges pitch tokens only, so every epoch has the same rows, targets and number of batches.

    Attributes:
        tokens_per_epoch: scored targets in an epoch.
    """

    def __init__(
        self, keys: Sequence[Sequence[Piece]], tokenizer: MusicTokenizer, length: int, rows: int, seed: int
    ) -> None:
        """Take the pieces.

        Args:
            keys: for each piece, its versions to draw from.
            tokenizer: the one that made them.
            length: longest row in tokens.
            rows: rows in a batch.
            seed: of the keys and of the order.
        """
        self._keys, self._tokenizer, self._length, self._rows, self._seed = keys, tokenizer, length, rows, seed
        self._last: tuple[int, Sequence[Arrays]] = (-1, [])
        plan = batch_plan([versions[0] for versions in keys], tokenizer, length, rows, seed)
        self.tokens_per_epoch: int = plan.tokens_per_epoch

    def batches(self, epoch: int) -> Sequence[Arrays]:
        """Batches of one epoch; the same for the same number."""
        if self._last[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch, 7])
            chosen = [versions[int(rng.integers(len(versions)))] for versions in self._keys]
            plan = batch_plan(chosen, self._tokenizer, self._length, self._rows, self._seed)
            self._last = (epoch, plan.batches(epoch))
        return self._last[1]


def keys_within(tokenizer: MusicTokenizer, piece: Piece, semitones: int) -> Sequence[Piece]:
    """The piece in all keys at most so many semitones away in which its pitches have tokens; at least as it is.

    Raises:
        DataError: the tokenizer merges tokens, so that a pitch has no token of its own.
    """
    versions = transpositions(tokenizer, piece)
    near = [versions[i] for i, shift in enumerate(versions.shifts) if abs(shift) <= semitones]
    return near or [piece]
