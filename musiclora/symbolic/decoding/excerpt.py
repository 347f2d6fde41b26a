"""Excerpts of scores: the first or the last bars, with all that is in force where they begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from musiclora.music.bars import bar_lines

if TYPE_CHECKING:
    from symusic import Score

# A note that is played this little before a bar line belongs to the bar after it: a 128th note.
EARLY_QUARTERS = 1 / 32


def first_bars(score: Score, bars: int) -> tuple[Score, int | None]:
    """Take the first bars of a score, counted by its own metres; 0 takes all.

    Returns:
        the excerpt, and the tick of the bar line that ends it; None where it is the whole score.
    """
    lines = bar_lines(score, int(score.end()))
    if not bars or bars >= len(lines) - 1:
        return score, None
    return before_line(score, lines[bars]), lines[bars]


def last_bars(score: Score, bars: int) -> Score:
    """Take the last bars of a score, counted by its own metres; 0 takes all. They begin at tick 0."""
    lines = bar_lines(score, int(score.end()))
    if not bars or bars >= len(lines) - 1:
        return score
    return _from_line(score, lines[-1 - bars])


def early_ticks(score: Score) -> int:
    """Return the number of ticks by which a note may come before the bar line of its bar."""
    return int(score.ticks_per_quarter * EARLY_QUARTERS)


def before_line(score: Score, line: int) -> Score:
    """Return the part of a score whose notes begin before a tick, with what is in force there."""
    part = score.copy()
    early = line - early_ticks(score)
    for track in part.tracks:
        track.notes = [note for note in track.notes if note.time < early]
        for name in ("controls", "pitch_bends", "pedals"):
            setattr(track, name, [event for event in getattr(track, name) if event.time < line])
    for name in ("time_signatures", "key_signatures", "tempos"):
        setattr(part, name, [event for event in getattr(part, name) if event.time < line])
    return part


def _from_line(score: Score, line: int) -> Score:
    """Return the part of a score whose notes begin at a tick or later, shifted to 0, with what is in force there."""
    part = score.copy()
    early = line - early_ticks(score)
    for track in part.tracks:
        track.notes = [_moved(note, line) for note in track.notes if note.time >= early]
        track.controls = _in_force(track.controls, line, lambda event: event.number)
        track.pitch_bends = _in_force(track.pitch_bends, line, lambda _: 0)
        track.pedals = [_moved(pedal, line) for pedal in track.pedals if pedal.time >= line]
    part.tempos = _in_force(part.tempos, line, lambda _: 0)
    part.time_signatures = _in_force(part.time_signatures, line, lambda _: 0)
    part.key_signatures = _in_force(part.key_signatures, line, lambda _: 0)
    part.markers = [_moved(marker, line) for marker in part.markers if marker.time >= line]
    return part


def _in_force(events: Any, line: int, kind: Callable[[Any], int]) -> list[Any]:
    """Return the events from a tick on, shifted, and before them the last of each kind that came earlier, at 0."""
    earlier = {}
    for event in sorted(events, key=lambda event: event.time):
        if event.time <= line:
            earlier[kind(event)] = event
    return [_moved(event, line) for event in (*earlier.values(), *(e for e in events if e.time > line))]


def _moved(event: Any, line: int) -> Any:
    """Copy an event and shift it to the left, at most to 0."""
    moved = event.copy()
    moved.time = max(0, event.time - line)
    return moved
