"""Spans of ids that a grammar allows at each step, known before the draws (numpy)."""

from __future__ import annotations

import numpy as np

from musiclora.backends.base import Grammar

# Up to this number of tokens the whole vocabulary is computed: its logits cost less than the steps that avoid them.
WHOLE_VOCABULARY_TOKENS = 4096
_MOST_SETS = 4096  # sets of states that are remembered


class ClassExtents:
    """First and last id of each class of a grammar.

    Attributes:
        size: number of tokens.
        first, last: int64 [C'], the smallest and largest id of each class up to the largest that a token has; a class
            without tokens has a last id of -1.
    """

    def __init__(self, classes: np.ndarray) -> None:
        classes = np.asarray(classes)
        self.size, ids = len(classes), np.arange(len(classes))
        self.first = np.full(classes.max() + 1, self.size)
        self.last = np.full(classes.max() + 1, -1)
        np.minimum.at(self.first, classes, ids)
        np.maximum.at(self.last, classes, ids)


class GrammarSpans:
    """Smallest interval of ids that holds every token which a set of states allows.

    A row's state at a later step depends on its draws, the set of states that it can be in does not. Where the states
    take turns, as for tokens that stand in triples, a step allows one block of ids, and the logits of all others need
    not be computed.
    """

    def __init__(self, grammar: Grammar, extents: ClassExtents | None = None) -> None:
        """Begin with the extents of the grammar's classes, where they are known."""
        self._extents = extents or ClassExtents(grammar.classes)
        self._transitions = np.asarray(grammar.transitions)[:, : len(self._extents.last)]
        self._whole = self._extents.size <= WHOLE_VOCABULARY_TOKENS
        self._found: dict[frozenset[int], tuple[int, int, frozenset[int]]] = {}

    def follow(self, states: frozenset[int]) -> tuple[int, int, frozenset[int]]:
        """Return the first id and the end of what the states allow, and the states that may come next."""
        if self._whole:
            return 0, self._extents.size, states
        if states not in self._found:
            if len(self._found) >= _MOST_SETS:
                self._found.clear()
            rows = self._transitions[sorted(states)]
            allowed = (rows >= 0) & (self._extents.last >= 0)
            columns = np.flatnonzero(allowed.any(0))
            later = frozenset(np.unique(rows[allowed]).tolist())
            first, last = self._extents.first[columns].min(), self._extents.last[columns].max()
            self._found[states] = int(first), int(last) + 1, later
        return self._found[states]
