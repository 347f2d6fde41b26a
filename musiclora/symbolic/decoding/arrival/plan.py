"""Plan of a generation with arrival-time tokens: what the model is given, and the notes that stay as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from musiclora.errors import DataError
from musiclora.symbolic.dataset.arrival_rows import pad_rests
from musiclora.symbolic.decoding.arrival.context import Given
from musiclora.symbolic.decoding.arrival.parts import find_parts
from musiclora.symbolic.decoding.arrival.score_notes import list_notes
from musiclora.symbolic.decoding.clock import Clock
from musiclora.symbolic.decoding.excerpt import first_bars, last_bars
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.tokens.arrival import (
    DRUM_INSTRUMENT,
    DUR_OFFSET,
    EVENT_TOKENS,
    MAX_DURATION_STEPS,
    STEPS_PER_SECOND,
)
from musiclora.symbolic.tokens.holds import DRUMS

if TYPE_CHECKING:
    from symusic import Score

_NO_EVENTS = np.zeros((0, EVENT_TOKENS), np.int64)
_WHOLE_TICK = 1e-3  # a gap's end this near to a tick is that tick


@dataclass(frozen=True)
class ArrivalPlan:
    """What a generation begins with.

    Attributes:
        given: what the model is given.
        score: score with the notes that stay, and the settings of the result; None for a free piece.
        ticks_of: tick of a note that stays, by its step, so that what is drawn at the same time begins with it.
        closed_tracks: tracks of the score to which no new note is added.
        first_tick: new notes begin at this tick of the score or later.
        last_tick: new notes begin before this tick, and in a gap end by it; None without a bound.
        is_gap: True where the score goes on behind last_tick.
        end: the piece's end, in words; empty where the number of tokens decides.
        remarks: remarks for the user.
    """

    given: Given
    score: Score | None = None
    ticks_of: dict[int, int] | None = None
    closed_tracks: frozenset[int] = frozenset()
    first_tick: int = 0
    last_tick: int | None = None
    is_gap: bool = False
    end: str = ""
    remarks: tuple[str, ...] = ()


def plan_arrival(request: GenerationRequest, most_events: int) -> ArrivalPlan:
    """Plan a generation with arrival-time tokens.

    Args:
        request: settings.
        most_events: events that a context holds, for the remarks.

    Raises:
        DataError: parts that are not in the file, a gap outside it, or nothing to go on from.
    """
    if request.accompany is not None:
        return _plan_accompaniment(request, request.accompany)
    if request.infill is not None:
        return _plan_infill(request, request.infill)
    if request.prompt is not None:
        return _plan_continuation(request, request.prompt, most_events)
    return ArrivalPlan(_given(request, _NO_EVENTS, _NO_EVENTS))


def _given(
    request: GenerationRequest, prompt: np.ndarray, controls: np.ndarray, start: int = 0, stop: int | None = None
) -> Given:
    """Build what the model is given: the prompt padded with RESTs up to the start, the controls in order of time."""
    padded = pad_rests(prompt.ravel(), start).reshape(-1, EVENT_TOKENS)
    ordered = controls[np.argsort(controls[:, 0], kind="stable")]
    chosen = request.instruments
    instruments = None if chosen is None else frozenset(DRUM_INSTRUMENT if one == DRUMS else one for one in chosen)
    return Given(padded, ordered, start, stop, max(1, request.most_tokens // EVENT_TOKENS), instruments)


def _plan_continuation(request: GenerationRequest, prompt: Score, most_events: int) -> ArrivalPlan:
    """Plan the continuation of some bars, from the bar line behind them; of a whole score, from its last onset."""
    line = None
    if request.from_end:
        score = last_bars(prompt, request.prompt_bars)
    else:
        score, line = first_bars(prompt, request.prompt_bars)
    notes = list_notes(score)
    if not len(notes.tick):
        bars = f" in its first {request.prompt_bars} bars (--prompt-bars)" if line is not None else ""
        raise DataError(f"--prompt: holds no notes{bars}")
    first = int(notes.tick.max()) if line is None else line
    start = int(notes.events[:, 0].max()) if line is None else _step(Clock(score), line)
    given = _given(request, notes.events, _NO_EVENTS, max(start, int(notes.events[:, 0].max())))
    remarks = _describe_lengths(notes.events)
    if len(given.prompt) >= most_events:
        remarks.append(
            f"--prompt: its {len(notes.tick)} notes are more than the {most_events} events that the model holds; "
            f"the model sees the last {most_events // 2}"
        )
    return ArrivalPlan(given, score, _ticks_of(notes.events, notes.tick), first_tick=first, remarks=tuple(remarks))


def _plan_accompaniment(request: GenerationRequest, whole: Score) -> ArrivalPlan:
    """Plan new notes around given parts, up to the end of these; the other parts are written anew."""
    parts = find_parts(whole, request.parts)
    if not parts:
        raise DataError("--accompany: holds no notes")
    notes = list_notes(whole)
    chosen = np.isin(notes.track, parts)
    controls = notes.events[chosen]
    score = whole.copy()
    for index, track in enumerate(score.tracks):
        if index not in parts:
            track.notes = []
            track.lyrics = []
    ends = [int(note.time) + int(note.duration) for index in parts for note in score.tracks[index].notes]
    last = max(max(ends), int(notes.tick[chosen].max()) + 1)
    stop = max(_step(Clock(score), last), int(controls[:, 0].max()) + 1)
    return ArrivalPlan(
        _given(request, _NO_EVENTS, controls, 0, stop),
        score,
        _ticks_of(controls, notes.tick[chosen]),
        frozenset(parts),
        last_tick=last,
        end="with the end of the given parts",
        remarks=tuple(_describe_lengths(controls)),
    )


def _plan_infill(request: GenerationRequest, whole: Score) -> ArrivalPlan:
    """Plan new notes for a gap; what begins in the gap is written anew, everything else stays."""
    notes = list_notes(whole)
    if not len(notes.tick):
        raise DataError("--infill: holds no notes")
    clock = Clock(whole)
    first, last = (
        int(np.ceil(clock.ticks(seconds) - _WHOLE_TICK)) for seconds in (request.from_seconds, request.to_seconds)
    )
    end = int(whole.end())
    if first >= end:
        raise DataError(
            f"--infill: the gap begins at {request.from_seconds:.2f} s, and the file ends at {clock.seconds(end):.2f} s"
        )
    if last <= first:
        raise DataError(f"--infill: the gap from {request.from_seconds:g} s to {request.to_seconds:g} s is empty")
    before, after = notes.tick < first, notes.tick >= last
    start, stop = _step(clock, first), _step(clock, last)
    stop = max(stop, start + 1)
    score = whole.copy()
    for track in score.tracks:
        track.notes = [note for note in track.notes if not first <= note.time < last]
    kept = notes.events[before | after]
    return ArrivalPlan(
        _given(request, notes.events[before], notes.events[after], start, stop),
        score,
        _ticks_of(kept, notes.tick[before | after]),
        first_tick=first,
        last_tick=last,
        is_gap=True,
        end="with the gap filled",
        remarks=tuple(_describe_lengths(kept)),
    )


def _step(clock: Clock, tick: int) -> int:
    """Return the step of a tick."""
    return int(np.rint(clock.seconds(tick) * STEPS_PER_SECOND))


def _ticks_of(events: np.ndarray, ticks: np.ndarray) -> dict[int, int]:
    """Map the steps of events to their first tick."""
    return dict(zip(events[::-1, 0].tolist(), ticks[::-1].tolist(), strict=True))


def _describe_lengths(events: np.ndarray) -> list[str]:
    """Say how many given notes, int [n, 3], the model hears shorter than they are."""
    long = int((events[:, 1] - DUR_OFFSET >= MAX_DURATION_STEPS).sum())
    return [f"the model takes {long} given notes for 10 s long, which are longer"] if long else []
