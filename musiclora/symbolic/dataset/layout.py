"""Interface of row layouts: how a piece's tokens become the rows that a model sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from musiclora.symbolic.dataset.packing import Unit

NOT_OF_THE_PIECE = -1


@dataclass(frozen=True)
class RowTokens:
    """Tokens of one unit.

    Attributes:
        tokens: ids, int32 [n]; n is at most the unit's length.
        scored: True for the targets of the loss, bool [n].
        source: index of each token in the piece's tokens, int64 [n]; -1 for tokens that are not of the piece, such as
            BOS, a flag, a SEPARATOR or a REST.
    """

    tokens: np.ndarray
    scored: np.ndarray
    source: np.ndarray


class RowLayout(Protocol):
    """Layout of a tokenizer's rows.

    Attributes:
        pad_id: id that fills rows; never a target.
    """

    @property
    def pad_id(self) -> int: ...

    def measure(self, tokens: np.ndarray) -> int:
        """Count the tokens of a whole piece in one row; 0 where it has none."""

    def cut(self, piece: int, tokens: np.ndarray, limit: int) -> list[Unit]:
        """Cut a piece into the units that rows hold; empty where it has no target.

        Args:
            piece: index of the piece.
            tokens: of the piece, int32 [n].
            limit: most tokens of a unit.
        """

    def fill(self, tokens: np.ndarray, unit: Unit) -> RowTokens:
        """Build the tokens of one unit of a piece with tokens int32 [n]."""
