"""Protocol of a generation session, the part of the interface that draws tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from musiclora.backends.records import Grammar


class GenerationSession(Protocol):
    """Rows of tokens over one key-value cache, which grow by given and by drawn tokens and may be cut back.

    Rows may have different lengths; positions count from 0 in each. The adapter, if it is on, is added to a copy of the
    weights when the session starts; later changes of it do not count. A call that is refused changes nothing.
    """

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each row, int64 [B]."""

    def extend(self, tokens: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Append given tokens.

        Args:
            tokens: int32 [B, n].
            counts: int [B], 0 to n: row b takes its first counts[b] tokens; None takes all.

        Raises:
            DataError: shapes or ids that do not fit, or rows beyond the capacity; all at once.
        """

    def draw(
        self,
        uniforms: np.ndarray,
        grammar: Grammar | None = None,
        on_tokens: Callable[[np.ndarray], None] | None = None,
    ) -> np.ndarray:
        """Append one drawn token a row for each row of uniforms.

        A row that draws eos_id has ended: it yields pad_id, and keeps its length, in this draw and in later ones until
        it is extended or cut back.

        Args:
            uniforms: float32 [steps, B] in [0, 1). Every row needs at least one token.
            grammar: forbids tokens; its start, open keys and offsets are those of each row at this moment. Tables that
                are the same objects as in the last draw are not copied to the device again, so do not change them.
            on_tokens: called with int32 [B, k] blocks of drawn tokens, about every 16 tokens; the blocks add up to the
                result.

        Returns:
            int32 [B, steps], the drawn tokens.

        Raises:
            DataError: shapes that do not fit, an empty row, rows beyond the capacity, or logits that are not finite.
            ConfigError: a grammar that does not fit.
        """

    def rewind(self, lengths: np.ndarray) -> None:
        """Cut each row back; what is kept is not computed again, but for its last token.

        Args:
            lengths: int [B], 0 to the row's length.

        Raises:
            DataError: lengths that do not fit.
        """
