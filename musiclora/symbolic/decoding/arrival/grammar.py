"""Grammar of arrival-time tokens: each event is a time, a duration and a note, and times never fall."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from musiclora.backends.base import ClosedKeys, Grammar
from musiclora.symbolic.tokens.arrival import (
    CONTROL_OFFSET,
    DRUM_INSTRUMENT,
    DUR_OFFSET,
    MAX_STEPS,
    NOTE_OFFSET,
    PITCHES,
    REST,
    TIME_OFFSET,
)

TIME, DURATION, NOTE = range(3)  # states: the token that comes next
INSTRUMENTS = DRUM_INSTRUMENT + 1
_REST_CLASS = 2
_FIRST_INSTRUMENT_CLASS = 3
_FORBIDDEN_CLASS = _FIRST_INSTRUMENT_CLASS + INSTRUMENTS
_CLASSES = _FORBIDDEN_CLASS + 1


class ArrivalGrammar:
    """Automaton over the three positions of an event, with one copy of its states for each set of instruments.

    A note is one class for each instrument. Times are an ordered block of keys: each closes all before it. Controls and
    the ids behind them are never drawn. A REST stands for a note, as in training rows.

    Attributes:
        classes: int32 [V], class of each token.
        transitions: int32 [3 sets, C], next state or -1.
    """

    def __init__(self, vocab_size: int, rests: Collection[int] = (NOTE,)) -> None:
        """Build the tables.

        Args:
            vocab_size: ids of the model; those beyond the tokens are forbidden.
            rests: states in which a REST is allowed.
        """
        self._rests = tuple(rests)
        self._sets: dict[frozenset[int], int] = {}
        self.classes = np.full(vocab_size, _FORBIDDEN_CLASS, np.int32)
        self.classes[TIME_OFFSET:DUR_OFFSET] = TIME
        self.classes[DUR_OFFSET:NOTE_OFFSET] = DURATION
        self.classes[NOTE_OFFSET:REST] = _FIRST_INSTRUMENT_CLASS + np.arange(REST - NOTE_OFFSET) // PITCHES
        self.classes[REST:CONTROL_OFFSET] = _REST_CLASS
        self.transitions = np.zeros((0, _CLASSES), np.int32)
        steps = np.arange(MAX_STEPS, dtype=np.int32)
        keys, last = np.full(vocab_size, -1, np.int32), np.zeros(vocab_size, np.int32)
        keys[TIME_OFFSET:DUR_OFFSET] = last[TIME_OFFSET:DUR_OFFSET] = steps
        nowhere = np.zeros(vocab_size, bool)
        self._keys = ClosedKeys(
            keys=keys,
            shifted=nowhere,
            opens=nowhere,
            offsets=np.full(vocab_size, -1, np.int32),
            first=np.zeros(vocab_size, np.int32),
            last=last,
            limit=MAX_STEPS + 1,  # the key of the latest time itself stays open
            open=np.ones(MAX_STEPS, bool),
        )

    def at(self, earliest: Sequence[int], instruments: Sequence[frozenset[int]]) -> Grammar:
        """Build the backends' Grammar of rows that stand before an event.

        Args:
            earliest: step, relative to the row's context, before which no event of a row may begin.
            instruments: those that may sound next in each row, 0 to 128.
        """
        start = np.array([self._states_of(chosen) for chosen in instruments], np.int32)
        opened = np.arange(MAX_STEPS) >= np.clip(earliest, 0, MAX_STEPS - 1)[:, None]
        rule = self._keys
        keys = ClosedKeys(rule.keys, rule.shifted, rule.opens, rule.offsets, rule.first, rule.last, rule.limit, opened)
        return Grammar(self.classes, self.transitions, start, keys)

    def _states_of(self, instruments: frozenset[int]) -> int:
        """Return the first of the three states of a set of instruments, which are added where they are new."""
        if instruments not in self._sets:
            first = len(self.transitions)
            rows = np.full((3, _CLASSES), -1, np.int32)
            rows[TIME, TIME], rows[DURATION, DURATION] = first + DURATION, first + NOTE
            rows[NOTE, [_FIRST_INSTRUMENT_CLASS + one for one in sorted(instruments)]] = first + TIME
            for state in self._rests:
                rows[state, _REST_CLASS] = first + (state + 1) % 3
            self.transitions = np.concatenate([self.transitions, rows])
            self._sets[instruments] = first
        return self._sets[instruments]
