"""Rows of arrival-time tokens: windows of one song with a flag, RESTs, and times from the window's start.

Source: Thickstun, Hall, Donahue and Liang 2023, "Anticipatory Music Transformer", arXiv 2306.08620, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from musiclora.convert.errors import ConfigError
from musiclora.symbolic.dataset.layout import NOT_OF_THE_PIECE, RowLayout, RowTokens
from musiclora.symbolic.dataset.packing import Unit
from musiclora.symbolic.tokens.arrival import (
    ANTICIPATE,
    AUTOREGRESS,
    CONTROL_OFFSET,
    DRUM_INSTRUMENT,
    DUR_OFFSET,
    EVENT_TOKENS,
    MAX_STEPS,
    NOTE_OFFSET,
    PITCHES,
    REST,
    SEPARATOR,
    STEPS_PER_SECOND,
)

LEAD_STEPS = 5 * STEPS_PER_SECOND  # a control stands in the row about five seconds before it sounds
FLAG_TOKENS, SEPARATOR_TOKENS = 1, 3
_LEAST_ROW = FLAG_TOKENS + 2 * EVENT_TOKENS
_CONTEXT_SHARE = 4  # a window shares at most a quarter of its events, and of its time, with the one before


def pad_rests(events: np.ndarray, end: int | None = None) -> np.ndarray:
    """Put a REST one second after an event, repeatedly, wherever more than a second passes.

    Args:
        events: int [3n], in order of time; the time before the first one counts from 0.
        end: time in steps up to which RESTs follow the last event; None for the last event's.

    Returns:
        Events and RESTs, int [3m].
    """
    return _pad(np.asarray(events).reshape(-1, EVENT_TOKENS), 0, end)[0].ravel()


def split_controls(events: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split events int [3n] by a choice bool [n] into the events that remain and the controls, each int [3m]."""
    triples = np.asarray(events).reshape(-1, EVENT_TOKENS)
    return triples[~chosen].ravel(), (triples[chosen] + CONTROL_OFFSET).ravel()


def interleave(events: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Put each control before the first event whose predecessor has come within five seconds of the control.

    Args:
        events: events and RESTs in order of time, int [3n].
        controls: in order of time, int [3m].

    Returns:
        Both, int [3 (n + m)]; controls that no event comes near to stand at the end.
    """
    stream, given = (np.asarray(part).reshape(-1, EVENT_TOKENS) for part in (events, controls))
    places = _control_places(stream[:, 0], given[:, 0] - CONTROL_OFFSET)
    return np.insert(stream, places, given, axis=0).ravel()


def relative(tokens: np.ndarray) -> np.ndarray:
    """Shift the times of events, RESTs and controls int [3n] so that the smallest is 0; SEPARATORs stay."""
    triples = np.array(tokens).reshape(-1, EVENT_TOKENS)
    notes = triples[:, 2]
    timed = notes != SEPARATOR
    if timed.any():
        times = triples[:, 0] - CONTROL_OFFSET * (notes >= CONTROL_OFFSET)
        triples[timed, 0] -= times[timed].min()
    return triples.ravel()


def transposable_pitches(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the MIDI pitches of events int [3n] but for drums, and the index of the id of each, int64 [m]."""
    instruments, pitches = np.divmod(np.asarray(tokens)[2::EVENT_TOKENS] - NOTE_OFFSET, PITCHES)
    pitched = np.flatnonzero(instruments != DRUM_INSTRUMENT)
    return pitches[pitched], EVENT_TOKENS * pitched + 2


def _pad(events: np.ndarray, start: int, end: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Pad events [n, 3] that follow a time in steps; return the triples [m, 3], and the number of each or -1 [m]."""
    times = events[:, 0].astype(np.int64)
    last = int(times[-1]) if len(times) else start
    edges = np.concatenate([[start], times, [last if end is None else end]])
    rests = np.maximum(-(-np.diff(edges) // STEPS_PER_SECOND) - 1, 0)
    before = np.cumsum(rests)
    total = len(events) + int(before[-1])
    padded = np.zeros((total, EVENT_TOKENS), events.dtype)
    source = np.full(total, NOT_OF_THE_PIECE, np.int64)
    at = np.arange(len(events)) + before[:-1]
    padded[at], source[at] = events, np.arange(len(events))
    number = np.arange(int(before[-1])) - np.repeat(before - rests, rests)  # of a REST in its gap
    padded[source < 0] = np.stack(
        [
            np.repeat(edges[:-1], rests) + STEPS_PER_SECOND * (number + 1),
            np.full(len(number), DUR_OFFSET),
            np.full(len(number), REST),
        ],
        axis=1,
    )
    return padded, source


def _control_places(event_times: np.ndarray, control_times: np.ndarray) -> np.ndarray:
    """Find for each control the index of the event that it precedes; their number where it precedes none."""
    previous = np.maximum.accumulate(np.concatenate([[0], event_times]))[:-1]
    return np.searchsorted(previous, np.maximum.accumulate(control_times - LEAD_STEPS))


@dataclass(frozen=True)
class ArrivalRows:
    """Layout of windows of one song (implements `RowLayout`); a unit counts in the song's tokens with RESTs.

    A window is a flag and at most max_seq_len tokens of less than 100 s. Three SEPARATORs stand where the song begins;
    there times count from the song's start, as the bases were trained. Those of a later window count from its first
    event, which is context.
    """

    pad_id: ClassVar[int] = SEPARATOR

    def measure(self, tokens: np.ndarray) -> int:
        return FLAG_TOKENS + SEPARATOR_TOKENS + len(pad_rests(tokens)) if len(tokens) else 0

    def cut(self, piece: int, tokens: np.ndarray, limit: int) -> list[Unit]:
        """Cut a song into windows that score each event and REST once.

        Raises:
            ConfigError: a row of `limit` tokens does not hold two events.
        """
        if limit < _LEAST_ROW:
            raise ConfigError(f"--max-seq-len is {limit}; a row of arrival-time tokens needs at least {_LEAST_ROW}")
        times = pad_rests(tokens)[::EVENT_TOKENS]
        units: list[Unit] = []
        scored = 0
        while scored < len(times):
            start, opening = _next_start(times, units), FLAG_TOKENS + (0 if units else SEPARATOR_TOKENS)
            room = (limit - opening) // EVENT_TOKENS
            stop = _reach(times, start, room, not units)
            if stop == len(times) and units:  # the last window takes as much context as it holds
                earliest = int(np.searchsorted(times, times[-1] - MAX_STEPS, "right"))
                start = min(start, max(1, stop - room, earliest))
            units.append(Unit(piece, EVENT_TOKENS * start, EVENT_TOKENS * stop, EVENT_TOKENS * scored, opening))
            scored = stop
        return units

    def fill(self, tokens: np.ndarray, unit: Unit) -> RowTokens:
        padded, source = _pad(np.asarray(tokens).reshape(-1, EVENT_TOKENS), 0, None)
        start, stop, scored = (index // EVENT_TOKENS for index in (unit.start, unit.stop, unit.scored))
        triples = padded[start:stop].copy()
        triples[:, 0] -= _base_time(padded, unit)
        return _open_row(AUTOREGRESS, unit, triples, np.arange(start, stop) >= scored, source[start:stop])


def fill_with_controls(tokens: np.ndarray, unit: Unit, chosen: np.ndarray) -> RowTokens:
    """Build the row of a window some of whose events are controls.

    RESTs fill the gaps that the controls leave. Controls of the five seconds after the window stand in it as they
    would in a longer row, and what no longer fits falls out at its end. Controls are never scored.

    Args:
        tokens: events of the song, int32 [3n].
        unit: the window, of `ArrivalRows`.
        chosen: True for events of the song that are controls wherever the row holds them, bool [n].
    """
    events = np.asarray(tokens).reshape(-1, EVENT_TOKENS)
    padded, source = _pad(events, 0, None)
    start, stop, scored = (index // EVENT_TOKENS for index in (unit.start, unit.stop, unit.scored))
    base, last = _base_time(padded, unit), int(padded[stop - 1, 0])
    first, first_target = (int(np.count_nonzero(source[:index] >= 0)) for index in (start, scored))
    reach = min(last + LEAD_STEPS, base + MAX_STEPS - 1)
    window = np.arange(first, np.searchsorted(events[:, 0], reach, "right"))
    given, played = window[chosen[window]], window[~chosen[window]]
    # A REST that opens the window stands a second after what came before.
    begin = base - STEPS_PER_SECOND if source[start] < 0 and not _opens_song(unit) else base
    end = max(last + int(source[stop - 1] < 0), *events[window[-1:], 0].tolist(), 0)
    stream, number = _pad(events[played], begin, end)
    origin = np.append(played, NOT_OF_THE_PIECE)[number]
    after_context = stream[:, 0] > padded[scored - 1, 0] if scored > start else np.ones(len(stream), bool)
    is_target = np.where(origin >= 0, origin >= first_target, after_context)
    stream[:, 0] -= base
    controls = events[given] + np.array([CONTROL_OFFSET - base, CONTROL_OFFSET, CONTROL_OFFSET], events.dtype)
    places = _control_places(stream[:, 0], events[given, 0] - base)
    triples = np.insert(stream, places, controls, axis=0)
    is_target, origin = np.insert(is_target, places, False), np.insert(origin, places, given)
    return _open_row(ANTICIPATE, unit, *(part[: stop - start] for part in (triples, is_target, origin)))


def _opens_song(unit: Unit) -> bool:
    return unit.opening > FLAG_TOKENS


def _base_time(padded: np.ndarray, unit: Unit) -> int:
    """Return the time that counts as 0 in a window: the song's start, or the window's first event or REST."""
    return 0 if _opens_song(unit) else int(padded[unit.start // EVENT_TOKENS, 0])


def _next_start(times: np.ndarray, units: list[Unit]) -> int:
    """Find where the window after some others starts: a quarter of the last one, or 25 s, before its end."""
    if not units:
        return 0
    start, stop = (index // EVENT_TOKENS for index in (units[-1].start, units[-1].stop))
    by_events = stop - max(1, (stop - start) // _CONTEXT_SHARE)
    by_time = int(np.searchsorted(times, times[stop - 1] - MAX_STEPS // _CONTEXT_SHARE))
    return max(1, by_events, by_time) if stop > 1 else 0


def _reach(times: np.ndarray, start: int, room: int, opens_song: bool) -> int:
    """Find where a window ends that starts at an index and holds a number of events of less than 100 s."""
    base = 0 if opens_song else int(times[start])
    return min(start + room, int(np.searchsorted(times, base + MAX_STEPS)))


def _open_row(flag: int, unit: Unit, triples: np.ndarray, scored: np.ndarray, source: np.ndarray) -> RowTokens:
    """Put the flag, and the SEPARATORs where the song begins, before a window's triples [n, 3]."""
    opening = np.array([flag] + [SEPARATOR] * (unit.opening - FLAG_TOKENS), np.int32)
    tokens = np.concatenate([opening, triples.ravel()]).astype(np.int32)
    of_triples = np.where(source[:, None] < 0, NOT_OF_THE_PIECE, EVENT_TOKENS * source[:, None] + np.arange(3))
    none = np.full(len(opening), NOT_OF_THE_PIECE, np.int64)
    return RowTokens(
        tokens,
        np.concatenate([np.zeros(len(opening), bool), np.repeat(scored, EVENT_TOKENS)]),
        np.concatenate([none, of_triples.ravel()]),
    )


if TYPE_CHECKING:

    def _as_layout(rows: ArrivalRows) -> RowLayout:
        return rows
