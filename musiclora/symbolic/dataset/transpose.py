"""Transposition of pieces, and training batches that draw each piece's key every epoch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np

from musiclora.convert.errors import DataError
from musiclora.symbolic.dataset.anticipation import AnticipatedRows
from musiclora.symbolic.dataset.arrival_rows import transposable_pitches
from musiclora.symbolic.dataset.batches import batch_plan
from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer
from musiclora.training.lazy_batches import LazyBatches


class TransposedEpochs:
    """Training batches in which each piece's key, and the controls of each row, are drawn every epoch.

    The draw depends on seed, epoch and place in the list. A transposition exchanges pitch tokens only, and controls
    leave a row's length as it is, so every epoch has the same rows and number of batches. A piece is transposed when
    its batch is built.

    Attributes:
        tokens_per_epoch: scored targets in an epoch without controls.
        longest_row: tokens in the longest row.
    """

    def __init__(
        self,
        keys: Sequence[Sequence[Piece]],
        tokenizer: SymbolicTokenizer,
        length: int,
        rows: int,
        seed: int,
        anticipation: float = 0.0,
    ) -> None:
        """Lay out the rows.

        Args:
            keys: for each piece, its versions to draw from.
            tokenizer: the one that made them.
            length: longest row in tokens.
            rows: rows in a batch.
            seed: key of the transpositions, of the controls and of the order.
            anticipation: share of the rows that get controls; above 0 for arrival-time tokens only.
        """
        self._keys, self._seed, self._anticipation = keys, seed, anticipation
        self._plan = batch_plan([versions[0] for versions in keys], tokenizer, length, rows, seed)
        self.tokens_per_epoch: int = self._plan.tokens_per_epoch
        self.longest_row: int = self._plan.longest_row

    def batches(self, epoch: int) -> LazyBatches:
        """Return the batches of one epoch; the same for the same number."""
        rng = np.random.default_rng([self._seed, epoch, 7])
        chosen = [int(rng.integers(len(versions))) for versions in self._keys]
        layout = AnticipatedRows(self._anticipation, self._seed, epoch) if self._anticipation else None
        return self._plan.batches(epoch, lambda piece: self._keys[piece][chosen[piece]], layout)


def versions_within(tokenizer: SymbolicTokenizer, piece: Piece, semitones: int) -> Sequence[Piece]:
    """List the piece in all keys within a number of semitones in which its pitches have tokens; at least the original.

    Raises:
        DataError: the tokenizer merges tokens, so that a pitch has no token of its own.
    """
    own_range = () if isinstance(tokenizer, MusicTokenizer) else tokenizer.holds.pitches  # a band's bass lies low
    return transpose_piece(tokenizer, piece, *own_range).within(semitones) or [piece]


class Transpositions(Sequence[Piece]):
    """Lazy sequence of the transpositions of one piece, from the lowest on; each is built when it is indexed.

    Attributes:
        shifts: semitones of each transposition.
    """

    def __init__(self, piece: Piece, shifts: range, shift_tokens: Callable[[np.ndarray, int], np.ndarray]) -> None:
        """Keep what a transposition is built of.

        Args:
            piece: piece in its own key.
            shifts: semitones of each transposition.
            shift_tokens: moves the pitches of tokens int32 [n] by a number of semitones.
        """
        self._piece = piece
        self.shifts = shifts
        self._shift_tokens = shift_tokens

    def __len__(self) -> int:
        return len(self.shifts)

    def within(self, semitones: int) -> Transpositions:
        """Return those of at most this many semitones."""
        shifts = range(max(self.shifts.start, -semitones), min(self.shifts.stop, semitones + 1))
        return Transpositions(self._piece, shifts, self._shift_tokens)

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
        return dataclasses.replace(
            piece,
            name=f"{piece.name} {shift:+d}",
            tokens=self._shift_tokens(piece.tokens, shift),
            is_original=False,
            pitches=(piece.pitches + np.int16(shift)).astype(np.int16),
        )


def transpose_piece(tokenizer: SymbolicTokenizer, piece: Piece, low: int = 21, high: int = 109) -> Transpositions:
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
    if not isinstance(tokenizer, MusicTokenizer):
        pitches, at = transposable_pitches(piece.tokens)
        return Transpositions(piece, _shifts_within(pitches, low, high), functools.partial(_shift_at, at))
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
    lowest, highest = tokenizer.pitch_range
    shifts = _shifts_within(pitches, max(low, lowest), min(high, highest))
    return Transpositions(piece, shifts, functools.partial(_exchange, _shift_table(tokenizer), pitched))


def _shifts_within(pitches: np.ndarray, low: int, high: int) -> range:
    """List the semitones by which pitches may move within a range; none without pitches."""
    return range(low - int(pitches.min()), high - int(pitches.max()) + 1) if len(pitches) else range(0)


def _exchange(up: np.ndarray, pitched: np.ndarray, tokens: np.ndarray, shift: int) -> np.ndarray:
    """Exchange the pitched tokens, bool [n], by a table of `_shift_table`."""
    return np.where(pitched, up[shift][tokens], tokens)


def _shift_at(at: np.ndarray, tokens: np.ndarray, shift: int) -> np.ndarray:
    """Add the semitones to the ids at some places, int [m]."""
    moved = tokens.copy()
    moved[at] += shift
    return moved


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
