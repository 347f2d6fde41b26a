"""Batches: packed rows of tokens with loss mask, segments and positions; the same for both backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from musiclora.convert.errors import ConfigError, DataError
from musiclora.symbolic.dataset.packing import Unit, best_packing, split_into_windows
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer
from musiclora.training.lazy_batches import LazyBatches

Batch = dict[str, np.ndarray]
PAD_SEGMENT = -1


class BatchPlan:
    """Packed batches of a set of pieces, fixed by the seed and addressed by epoch and index.

    Every token is a target exactly once in an epoch, except a piece's first token where there is no BOS. A
    piece that fits into max_seq_len is never cut. A longer one becomes several full windows, and the context that
    windows share is scored once. A row holds one or more of these units, each as a segment with positions from 0.
    The content of a row is fixed. Its batch and the order of batches change with the epoch.

    Attributes:
        pieces: pieces in the order given.
        skipped: names of pieces without a target.
        row_lengths: distinct lengths of rows, ascending.
        tokens_per_epoch: number of targets in an epoch.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        max_seq_len: int,
        batch_size: int,
        seed: int,
        bos: int | None,
        eos: int | None,
        pad: int,
        shuffle: bool = True,
    ) -> None:
        """Lay out the rows.

        Args:
            pieces: tokenised songs.
            max_seq_len: longest row in tokens, at least 2.
            batch_size: rows in a batch; the last batch of each row length may have fewer.
            seed: random seed of the order.
            bos: id before each piece, or None.
            eos: id after each piece, or None.
            pad: id of padding.
            shuffle: False keeps the rows in order, as for validation.

        Raises:
            ConfigError: max_seq_len is under 2 or batch_size under 1.
            DataError: no piece has a target.
        """
        if max_seq_len < 2 or batch_size < 1:
            raise ConfigError(
                f"--max-seq-len is {max_seq_len} and --batch-size {batch_size}; at least 2 and 1 are needed"
            )
        self.pieces = list(pieces)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self._bos, self._eos, self._pad = bos, eos, pad
        units = [split_into_windows(i, self._wrapped_length(p), max_seq_len) for i, p in enumerate(self.pieces)]
        self.skipped = [p.name for p, u in zip(self.pieces, units, strict=True) if not u]
        flat = [u for per_piece in units for u in per_piece]
        if not flat:
            raise DataError(f"none of {len(self.pieces)} pieces has two tokens; there is nothing to train on or score")
        packing = best_packing([u.length for u in flat], max_seq_len)
        self._rows = [[flat[i] for i in row] for row in packing.rows]
        self._lengths = packing.lengths
        self.row_lengths = sorted(set(self._lengths))
        self.tokens_per_epoch = sum(u.stop - max(u.scored, u.start + 1) for u in flat)

    def _wrapped_length(self, piece: Piece) -> int:
        if not len(piece.tokens):
            return 0
        return len(piece.tokens) + (self._bos is not None) + (self._eos is not None)

    def _wrap_tokens(self, piece: Piece) -> np.ndarray:
        before = [] if self._bos is None else [self._bos]
        after = [] if self._eos is None else [self._eos]
        return np.concatenate([before, piece.tokens, after]).astype(np.int32)

    def rows(self, epoch: int) -> list[list[Unit]]:
        """List the units of each row, in the order of the epoch's batches."""
        return [self._rows[i] for batch in self._order_rows(epoch) for i in batch]

    def batches(self, epoch: int, piece_at: Callable[[int], Piece] | None = None) -> LazyBatches:
        """Return the batches of an epoch; index them to resume anywhere.

        Args:
            epoch: the same number gives the same batches.
            piece_at: gives by index the pieces to fill the rows with; each is as long as the piece it replaces.
        """
        return LazyBatches([partial(self.build, rows, piece_at) for rows in self._order_rows(epoch)])

    def _order_rows(self, epoch: int) -> list[list[int]]:
        """List the row numbers of each batch."""
        rng = np.random.default_rng([self.seed, epoch])
        grouped: list[list[int]] = []
        for length in self.row_lengths:
            rows = [i for i, n in enumerate(self._lengths) if n == length]
            if self.shuffle:
                rows = [rows[i] for i in rng.permutation(len(rows))]
            grouped += [rows[k : k + self.batch_size] for k in range(0, len(rows), self.batch_size)]
        return [grouped[i] for i in rng.permutation(len(grouped))] if self.shuffle else grouped

    @property
    def longest_row(self) -> int:
        """Tokens in the longest row."""
        return self.row_lengths[-1]

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches, the same in every epoch."""
        return sum(-(-self._lengths.count(n) // self.batch_size) for n in self.row_lengths)

    def steps(self, accum: int) -> int:
        """Count the optimiser steps of an epoch at `accum` batches a step; the last step may take fewer."""
        return -(-self.batches_per_epoch // accum)

    def padding(self, epoch: int) -> float:
        """Compute the share of the epoch's cells without a token."""
        used = sum(u.length for row in self.rows(epoch) for u in row)
        return 1 - used / sum(self._lengths)

    def build(self, rows: Sequence[int], piece_at: Callable[[int], Piece] | None = None) -> Batch:
        """Build the batch of some rows that share one length.

        Args:
            rows: row numbers.
            piece_at: see `batches`.

        Returns:
            tokens int32, loss_mask bool, segments int32 (-1: padding) and positions int32, each [B, L].
        """
        piece_at = piece_at or self.pieces.__getitem__
        shape = (len(rows), self._lengths[rows[0]])
        tokens = np.full(shape, self._pad, np.int32)
        mask = np.zeros(shape, bool)
        segments = np.full(shape, PAD_SEGMENT, np.int32)
        positions = np.zeros(shape, np.int32)
        for b, row in enumerate(rows):
            at = 0
            for s, unit in enumerate(self._rows[row]):
                end = at + unit.length
                tokens[b, at:end] = self._wrap_tokens(piece_at(unit.piece))[unit.start : unit.stop]
                mask[b, at + max(unit.scored - unit.start, 1) : end] = True
                segments[b, at:end] = s
                positions[b, at:end] = np.arange(unit.length)
                at = end
        return {"tokens": tokens, "loss_mask": mask, "segments": segments, "positions": positions}


def batch_plan(pieces: Sequence[Piece], tokenizer: MusicTokenizer, length: int, rows: int, seed: int) -> BatchPlan:
    """Lay out rows and batches of some pieces with a tokenizer's special tokens."""
    return BatchPlan(list(pieces), length, rows, seed, bos=tokenizer.bos_id, eos=tokenizer.eos_id, pad=tokenizer.pad_id)


def song_batches(pieces: Sequence[Piece], tokenizer: MusicTokenizer, length: int) -> list[LazyBatches]:
    """Return the batches of each song on its own, for scores by song."""
    return [batch_plan([piece], tokenizer, length, 4, 0).batches(0) for piece in pieces]
