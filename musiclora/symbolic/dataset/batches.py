"""Batches: packed rows of tokens with loss mask, segments and positions; the same for both backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from musiclora.convert.errors import ConfigError, DataError
from musiclora.symbolic.dataset.layout import NOT_OF_THE_PIECE, RowLayout
from musiclora.symbolic.dataset.packing import Unit, best_packing
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.row_layouts import layout_of
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer
from musiclora.training.lazy_batches import LazyBatches

Batch = dict[str, np.ndarray]
PAD_SEGMENT = -1


class BatchPlan:
    """Packed batches of a set of pieces, fixed by the seed and addressed by epoch and index.

    Every token is a target exactly once in an epoch, except a piece's first token where nothing opens the row. A
    piece that fits into max_seq_len is never cut. A longer one becomes several windows, and the context that
    windows share is scored once. A row holds one or more of these units, each as a segment with positions from 0.
    The units of a row are fixed. Its batch and the order of batches change with the epoch.

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
        layout: RowLayout,
        shuffle: bool = True,
    ) -> None:
        """Lay out the rows.

        Args:
            pieces: tokenised songs.
            max_seq_len: longest row in tokens, at least 2.
            batch_size: rows in a batch; the last batch of each row length may have fewer.
            seed: random seed of the order.
            layout: makes rows of the pieces' tokens.
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
        self._layout = layout
        units = [layout.cut(i, p.tokens, max_seq_len) for i, p in enumerate(self.pieces)]
        self.skipped = [p.name for p, u in zip(self.pieces, units, strict=True) if not u]
        flat = [u for per_piece in units for u in per_piece]
        if not flat:
            raise DataError(f"none of {len(self.pieces)} pieces has two tokens; there is nothing to train on or score")
        packing = best_packing([u.length for u in flat], max_seq_len)
        self._rows = [[flat[i] for i in row] for row in packing.rows]
        self._lengths = packing.lengths
        self.row_lengths = sorted(set(self._lengths))
        self.tokens_per_epoch = sum(u.targets for u in flat)

    def rows(self, epoch: int) -> list[list[Unit]]:
        """List the units of each row, in the order of the epoch's batches."""
        return [self._rows[i] for batch in self._order_rows(epoch) for i in batch]

    def batches(
        self, epoch: int, piece_at: Callable[[int], Piece] | None = None, layout: RowLayout | None = None
    ) -> LazyBatches:
        """Return the batches of an epoch; index them to resume anywhere.

        Args:
            epoch: the same number gives the same batches.
            piece_at: gives by index the pieces to fill the rows with; each is as long as the piece it replaces.
            layout: fills the rows in place of the plan's own; it makes units at most as long.
        """
        return LazyBatches([partial(self.build, rows, piece_at, layout) for rows in self._order_rows(epoch)])

    def sources(self, epoch: int) -> list[np.ndarray]:
        """List for each batch of an epoch the index of each cell in its piece's tokens, int64 [B, L], or -1."""
        return [self._sources_of(rows) for rows in self._order_rows(epoch)]

    def _sources_of(self, rows: Sequence[int]) -> np.ndarray:
        found = np.full((len(rows), self._lengths[rows[0]]), NOT_OF_THE_PIECE, np.int64)
        for b, row in enumerate(rows):
            at = 0
            for unit in self._rows[row]:
                source = self._layout.fill(self.pieces[unit.piece].tokens, unit).source
                found[b, at : at + len(source)] = source
                at += len(source)
        return found

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

    def build(
        self,
        rows: Sequence[int],
        piece_at: Callable[[int], Piece] | None = None,
        layout: RowLayout | None = None,
    ) -> Batch:
        """Build the batch of some rows that share one length.

        Args:
            rows: row numbers.
            piece_at: see `batches`.
            layout: see `batches`.

        Returns:
            tokens int32, loss_mask bool, segments int32 (-1: padding) and positions int32, each [B, L].
        """
        piece_at, layout = piece_at or self.pieces.__getitem__, layout or self._layout
        shape = (len(rows), self._lengths[rows[0]])
        tokens = np.full(shape, layout.pad_id, np.int32)
        mask = np.zeros(shape, bool)
        segments = np.full(shape, PAD_SEGMENT, np.int32)
        positions = np.zeros(shape, np.int32)
        for b, row in enumerate(rows):
            at = 0
            for s, unit in enumerate(self._rows[row]):
                filled = layout.fill(piece_at(unit.piece).tokens, unit)
                end = at + len(filled.tokens)
                tokens[b, at:end] = filled.tokens
                mask[b, at:end] = filled.scored
                segments[b, at:end] = s
                positions[b, at:end] = np.arange(end - at)
                at = end
        return {"tokens": tokens, "loss_mask": mask, "segments": segments, "positions": positions}


def batch_plan(pieces: Sequence[Piece], tokenizer: SymbolicTokenizer, length: int, rows: int, seed: int) -> BatchPlan:
    """Lay out rows and batches of some pieces as their tokenizer's models see them."""
    return BatchPlan(list(pieces), length, rows, seed, layout_of(tokenizer))


def song_batches(pieces: Sequence[Piece], tokenizer: SymbolicTokenizer, length: int) -> list[LazyBatches]:
    """Return the batches of each song on its own, for scores by song."""
    return [batch_plan([piece], tokenizer, length, 4, 0).batches(0) for piece in pieces]
