"""Transposition of pieces, and training batches that draw each piece's key every epoch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import overload

import numpy as np

from musiclora.convert.errors import DataError
from musiclora.symbolic.dataset.batches import batch_plan
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer
from musiclora.training.lazy_batches import LazyBatches


class TransposedEpochs:
    """Training batches in which each piece's key is drawn every epoch, by seed, epoch and place in the list.

    A transposition exchanges pitch tokens only, so every epoch has the same rows, targets and number of batches.
    A piece is transposed when its batch is built.

    Attributes:
        tokens_per_epoch: scored targets in an epoch.
        longest_row: tokens in the longest row.
    """

    def __init__(
        self, keys: Sequence[Sequence[Piece]], tokenizer: MusicTokenizer, length: int, rows: int, seed: int
    ) -> None:
        """Lay out the rows.

        Args:
            keys: for each piece, its versions to draw from.
            tokenizer: the one that made them.
            length: longest row in tokens.
            rows: rows in a batch.
            seed: key of the transpositions and of the order.
        """
        self._keys, self._seed = keys, seed
        self._plan = batch_plan([versions[0] for versions in keys], tokenizer, length, rows, seed)
        self.tokens_per_epoch: int = self._plan.tokens_per_epoch
        self.longest_row: int = self._plan.longest_row

    def batches(self, epoch: int) -> LazyBatches:
        """Return the batches of one epoch; the same for the same number."""
        rng = np.random.default_rng([self._seed, epoch, 7])
        chosen = [int(rng.integers(len(versions))) for versions in self._keys]
        return self._plan.batches(epoch, lambda piece: self._keys[piece][chosen[piece]])


def versions_within(tokenizer: MusicTokenizer, piece: Piece, semitones: int) -> Sequence[Piece]:
    """List the piece in all keys within a number of semitones in which its pitches have tokens; at least the original.

    Raises:
        DataError: the tokenizer merges tokens, so that a pitch has no token of its own.
    """
    return transpose_piece(tokenizer, piece).within(semitones) or [piece]


class Transpositions(Sequence[Piece]):
    """Lazy sequence of the transpositions of one piece, from the lowest on; each is built when it is indexed.

    Attributes:
        shifts: semitones of each transposition.
    """

    def __init__(self, piece: Piece, shifts: range, up: np.ndarray, pitched: np.ndarray) -> None:
        """Keep what a transposition is built of.

        Args:
            piece: piece in its own key.
            shifts: semitones of each transposition.
            up: see `_shift_table`.
            pitched: True for the tokens that a transposition exchanges, bool [n].
        """
        self._piece = piece
        self.shifts = shifts
        self._up = up
        self._pitched = pitched

    def __len__(self) -> int:
        return len(self.shifts)

    def within(self, semitones: int) -> Transpositions:
        """Return those of at most this many semitones."""
        shifts = range(max(self.shifts.start, -semitones), min(self.shifts.stop, semitones + 1))
        return Transpositions(self._piece, shifts, self._up, self._pitched)

    @overload
    def __getitem__(self, index: int) -> Piece: ...

    @overload
    def __getitem__(self, index: slice) -> list[Piece]: ...

    def __getitem__(self, index: int | slice) -> Piece | list[Piece]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        shift = self.shifts[index]
        piece = self._piece
        if shift == 0:
            return piece
        tokens = np.where(self._pitched, self._up[shift][piece.tokens], piece.tokens)
        return dataclasses.replace(
            piece,
            name=f"{piece.name} {shift:+d}",
            tokens=tokens,
            is_original=False,
            pitches=(piece.pitches + np.int16(shift)).astype(np.int16),
        )


def transpose_piece(tokenizer: MusicTokenizer, piece: Piece, low: int = 21, high: int = 109) -> Transpositions:
    """Transpose the piece to every key in which all its pitches lie in low..high, its own key included.

    Only pitch tokens are exchanged, so every version has the same number of tokens and the same rhythm. Drums are
    never transposed, whatever their tokens. The result is empty where the piece spans more than the range or has no
    pitch token besides those of drums.

    Args:
        tokenizer: tokenizer of the piece, without merged tokens (byte pairs).
        piece: piece to transpose.
        low: lowest pitch allowed, MIDI number.
        high: highest pitch allowed.

    Raises:
        DataError: the tokenizer merges tokens, so that a pitch has no token of its own.
    """
    if tokenizer.inner.is_trained:
        raise DataError(
            f"this {tokenizer.kind} tokenizer merges tokens, so pieces cannot be transposed while training; leave out "
            "--transpose (pretrain: give --no-transpose) and transpose the music files with augment"
        )
    pitched = tokenizer.pitched(piece.tokens)
    pitches = tokenizer.pitch_of[piece.tokens][pitched]
    if tokenizer.inner.config.use_pitch_intervals:  # the pitches between those with a token of their own
        decoded = tokenizer.decode(piece.tokens)
        pitches = np.array([note.pitch for track in decoded.tracks if not track.is_drum for note in track.notes])
    if not len(pitches):
        return Transpositions(piece, range(0), np.zeros((0, 0), np.int32), pitched)
    lowest, highest = tokenizer.pitch_range
    shifts = range(max(low, lowest) - int(pitches.min()), min(high, highest) - int(pitches.max()) + 1)
    return Transpositions(piece, shifts, _shift_table(tokenizer), pitched)


@functools.lru_cache(maxsize=4)
def _shift_table(tokenizer: MusicTokenizer) -> np.ndarray:
    """Tabulate the id of each token after a shift, int32 [256, V]; negative shifts index from the end."""
    pitch_of = tokenizer.pitch_of
    kinds = np.array([token.partition("_")[0] for token in tokenizer.tokens])
    table = np.tile(np.arange(len(pitch_of), dtype=np.int32), (256, 1))
    for kind in np.unique(kinds[pitch_of >= 0]):  # Pitch, or NoteOn and NoteOff
        at = np.flatnonzero((pitch_of >= 0) & (kinds == kind))
        ids = np.full(128, -1, np.int32)
        ids[pitch_of[at]] = at
        for shift in range(-127, 128):
            target = pitch_of[at] + shift
            inside = (target >= 0) & (target <= 127)
            table[shift, at[inside]] = ids[target[inside]]
    return table
