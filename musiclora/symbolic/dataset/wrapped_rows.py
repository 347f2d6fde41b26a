"""Rows of MidiTok's tokens: BOS, the piece and EOS, cut into overlapping windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from musiclora.symbolic.dataset.layout import NOT_OF_THE_PIECE, RowLayout, RowTokens
from musiclora.symbolic.dataset.packing import Unit, split_into_windows


@dataclass(frozen=True)
class WrappedRows:
    """Layout that wraps a piece in BOS and EOS; a unit counts in the wrapped sequence (implements `RowLayout`).

    Attributes:
        bos: id before each piece, or None.
        eos: id after each piece, or None.
        pad_id: id of padding.
    """

    bos: int | None
    eos: int | None
    pad_id: int

    def measure(self, tokens: np.ndarray) -> int:
        return len(tokens) + (self.bos is not None) + (self.eos is not None) if len(tokens) else 0

    def cut(self, piece: int, tokens: np.ndarray, limit: int) -> list[Unit]:
        return split_into_windows(piece, self.measure(tokens), limit)

    def fill(self, tokens: np.ndarray, unit: Unit) -> RowTokens:
        before = [] if self.bos is None else [self.bos]
        after = [] if self.eos is None else [self.eos]
        wrapped = np.concatenate([before, tokens, after]).astype(np.int32)[unit.start : unit.stop]
        at = np.arange(unit.start, unit.stop) - len(before)
        inside = (at >= 0) & (at < len(tokens))
        scored = np.arange(unit.length) >= max(unit.scored - unit.start, 1)
        return RowTokens(wrapped, scored, np.where(inside, at, NOT_OF_THE_PIECE))


if TYPE_CHECKING:

    def _as_layout(rows: WrappedRows) -> RowLayout:
        return rows
