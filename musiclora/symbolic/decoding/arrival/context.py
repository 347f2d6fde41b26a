"""Context of one piece of arrival-time tokens: what the model has been shown, and where it begins anew."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from musiclora.symbolic.dataset.arrival_rows import LEAD_STEPS
from musiclora.symbolic.tokens.arrival import (
    ANTICIPATE,
    AUTOREGRESS,
    CONTROL_OFFSET,
    DRUM_INSTRUMENT,
    EVENT_TOKENS,
    MAX_INSTRUMENTS,
    MAX_STEPS,
    NOTE_OFFSET,
    PITCHES,
    REST,
    STEPS_PER_SECOND,
)

_LAST_STEPS = 10 * STEPS_PER_SECOND  # a context whose latest event lies in its last ten seconds is full
_RECENT_EVENTS = 16  # of which the pace is taken
_ALL_INSTRUMENTS = frozenset(range(DRUM_INSTRUMENT + 1))

Event = tuple[int, int, int]  # step from the piece's beginning, id of the duration, id of the note


@dataclass(frozen=True)
class Given:
    """What a piece is given.

    Attributes:
        prompt: events and RESTs that begin the piece, int64 [n, 3]: absolute step, id of the duration, id of the note.
        controls: events that are known in advance, in order of time, in the same form, int64 [m, 3].
        start: step before which nothing is drawn.
        stop: step before which every drawn event begins; None without a bound.
        most_events: most events that are drawn.
        instruments: those that may be drawn, 0 to 128; None for any, at most 15 in a piece.
    """

    prompt: np.ndarray
    controls: np.ndarray
    start: int = 0
    stop: int | None = None
    most_events: int = 1
    instruments: frozenset[int] | None = None


@dataclass
class ArrivalPiece:
    """One piece that is being written.

    Attributes:
        number: number in the request, from 0.
        given: what it is given.
        shown: events, RESTs and controls in the order in which the model sees them; steps are absolute, and the ids of
            a control's duration and note are those of controls.
        latest: step of the latest event, controls aside.
        drawn: events and RESTs that the model drew.
        done: True where the last event has been drawn.
        limited: True where it ended because the events that may be drawn were used up.
        first: index into `shown` where the context begins.
        origin: step that is 0 in the context.
        kept: number of events of the context that the session holds.
    """

    number: int
    given: Given
    shown: list[Event] = field(default_factory=list)
    latest: int = 0
    drawn: list[Event] = field(default_factory=list)
    done: bool = False
    limited: bool = False
    first: int = 0
    origin: int = 0
    kept: int = 0
    _next_control: int = 0
    _sounded: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for event in self.given.prompt.tolist():
            self.show_controls()
            self._show(event[0], event[1], event[2])
            self.latest = event[0]
        self.show_controls()

    @property
    def flag(self) -> int:
        """First token of the context."""
        return ANTICIPATE if len(self.given.controls) else AUTOREGRESS

    @property
    def earliest(self) -> int:
        """Step of the context before which the next event may not begin."""
        return max(self.given.start, self.latest) - self.origin

    def control_is_due(self) -> bool:
        """Return True where a control must be shown before the next event."""
        controls, number = self.given.controls, self._next_control
        return number < len(controls) and self.latest >= int(controls[number, 0]) - LEAD_STEPS

    def events_to_control(self) -> float:
        """Estimate how many events come before the next control is due, by the pace of the latest; inf without one."""
        if self._next_control >= len(self.given.controls):
            return math.inf
        steps = int(self.given.controls[self._next_control, 0]) - LEAD_STEPS - self.latest
        recent = self.drawn[-_RECENT_EVENTS:]
        pace = (recent[-1][0] - recent[0][0]) / (len(recent) - 1) if len(recent) > 1 else math.inf
        return steps / max(1.0, pace)

    def show_controls(self) -> None:
        """Show every control whose time has come."""
        while self.control_is_due():
            step, duration, note = self.given.controls[self._next_control].tolist()
            self._show(step, duration + CONTROL_OFFSET, note + CONTROL_OFFSET)
            self._next_control += 1

    def allowed_instruments(self) -> frozenset[int]:
        """Return the instruments that may sound next; after 15 different ones no new one."""
        if self.given.instruments is not None:
            return self.given.instruments
        return frozenset(self._sounded) if self.is_full_band() else _ALL_INSTRUMENTS

    def is_full_band(self) -> bool:
        """Return True where as many instruments have sounded as may."""
        return len(self._sounded) >= MAX_INSTRUMENTS

    def add_drawn(self, event: Event) -> bool:
        """Take a drawn event; return False where it is past the end, and the piece is done."""
        if self.given.stop is not None and event[0] >= self.given.stop:
            self.done = True
            return False
        self._show(*event)
        self.kept += 1
        self.latest = event[0]
        self.drawn.append(event)
        if len(self.drawn) >= self.given.most_events:
            self.done = self.limited = True
        return True

    def begin_context(self, most: int) -> bool:
        """Move the context's beginning where it is full or too long in time; return True where it must be shown anew.

        Args:
            most: events that a context holds.
        """
        before = self.first, self.origin
        shown = self.shown
        if len(shown) - self.first >= most:
            self.first = len(shown) - most // 2
        origin = min((event[0] for event in shown[self.first :]), default=0)
        if shown and self.earliest + self.origin - origin >= MAX_STEPS - _LAST_STEPS:
            half = self.latest - MAX_STEPS // 2
            late = (i for i in range(self.first, len(shown)) if shown[i][0] >= half)
            self.first = next(late, len(shown) - 1)
            origin = min(event[0] for event in shown[self.first :])
        self.origin = origin
        anew = before != (self.first, self.origin)
        if anew:
            self.kept = 0
        return anew

    def is_stale(self, most: int) -> bool:
        """Return True where the context has to be looked at before the next event is drawn."""
        late = self.earliest >= MAX_STEPS - _LAST_STEPS
        first = len(self.shown) == self.first + 1 and self.shown[-1][0] != self.origin
        return late or first or self.control_is_due() or len(self.shown) - self.first >= most

    def tokens_to_show(self) -> list[int]:
        """Return the tokens of the context that the session lacks, and count them as shown."""
        tokens = []
        for step, duration, note in self.shown[self.first + self.kept :]:
            tokens += [step - self.origin + (CONTROL_OFFSET if note > REST else 0), duration, note]
        self.kept = len(self.shown) - self.first
        return tokens

    @property
    def length(self) -> int:
        """Tokens of the context that the session holds, flag included."""
        return 1 + EVENT_TOKENS * self.kept

    def _show(self, step: int, duration: int, note: int) -> None:
        self.shown.append((step, duration, note))
        if note != REST:
            self._sounded.add((note - NOTE_OFFSET - (CONTROL_OFFSET if note > REST else 0)) // PITCHES)
