"""Spans of ids that a grammar allows at each step, known before the draws (numpy)."""

from __future__ import annotations

import numpy as np

from musiclora.backends.base import Grammar

# Up to this number of tokens the whole vocabulary is computed: its logits cost less than the steps that avoid them.
WHOLE_VOCABULARY_TOKENS = 4096
_MOST_SETS = 4096  # sets of states that are remembered


class GrammarSpans:
    """Smallest interval of ids that holds every token which a set of states allows.

    A row's state at a later step depends on its draws, the set of states that it can be in does not. Where the states
    take turns, as for tokens that stand in triples, a step allows one block of ids, and the logits of all others need
    not be computed.
    """

    def __init__(self, grammar: Grammar) -> None:
        classes, self._transitions = np.asarray(grammar.classes), np.asarray(grammar.transitions)
        self._size = len(classes)
        self._whole = self._size <= WHOLE_VOCABULARY_TOKENS
        used = np.unique(classes)
        self._first = np.full(self._transitions.shape[1], self._size)
        self._last = np.full(self._transitions.shape[1], -1)
        ids = np.arange(self._size)
        np.minimum.at(self._first, classes, ids)
        np.maximum.at(self._last, classes, ids)
        self._used = np.zeros(self._transitions.shape[1], bool)
        self._used[used] = True
        self._found: dict[frozenset[int], tuple[int, int, frozenset[int]]] = {}

    def follow(self, states: frozenset[int]) -> tuple[int, int, frozenset[int]]:
        """Return the first id and the end of what the states allow, and the states that may come next."""
        if self._whole:
            return 0, self._size, states
        if states not in self._found:
            if len(self._found) >= _MOST_SETS:
                self._found.clear()
            rows = self._transitions[sorted(states)]
            allowed = (rows >= 0) & self._used
            columns = np.flatnonzero(allowed.any(0))
            later = frozenset(np.unique(rows[allowed]).tolist())
            self._found[states] = int(self._first[columns].min()), int(self._last[columns].max()) + 1, later
        return self._found[states]
