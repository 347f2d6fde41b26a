"""Score of drawn arrival-time events: new notes beside those that stay, in tracks by instrument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from musiclora.music.bars import bar_lines
from musiclora.music.instruments import instrument_name, program_of
from musiclora.symbolic.decoding.arrival.plan import ArrivalPlan
from musiclora.symbolic.decoding.clock import Clock
from musiclora.symbolic.decoding.loudness import Loudness, accent_places
from musiclora.symbolic.tokens.arrival import (
    DRUM_INSTRUMENT,
    DUR_OFFSET,
    NOTE_OFFSET,
    PITCHES,
    REST,
    STEPS_PER_SECOND,
)
from musiclora.symbolic.tokens.holds import DRUMS

if TYPE_CHECKING:
    from symusic import Score, Track

_TICKS_PER_QUARTER = 480  # of a free piece
_QPM = 120.0


@dataclass(frozen=True)
class _NewNotes:
    """Drawn notes in ticks, each int64 [n]: program (-1 for drums), pitch, onset and end."""

    program: np.ndarray
    pitch: np.ndarray
    tick: np.ndarray
    end: np.ndarray

    def only(self, chosen: np.ndarray) -> _NewNotes:
        """Return some of the notes, by index or bool."""
        return _NewNotes(self.program[chosen], self.pitch[chosen], self.tick[chosen], self.end[chosen])


def build_score(plan: ArrivalPlan, drawn: np.ndarray, loudness: Loudness, *, limited: bool) -> tuple[Score, int, bool]:
    """Build the score of a piece.

    Args:
        plan: what the generation began with.
        drawn: drawn events and RESTs, int64 [n, 3], with absolute steps.
        loudness: of the new notes.
        limited: True where the number of tokens ended the piece.

    Returns:
        the score, the number of its new notes, and True where it was cut at a bar line.
    """
    score = _empty_score() if plan.score is None else plan.score.copy()
    notes = _to_ticks(plan, score, drawn[drawn[:, 2] != REST])
    cut = False
    if limited and plan.score is not None and plan.last_tick is None and len(notes.tick):
        line = _last_line(score, int(notes.tick.max()))
        cut = bool((notes.tick < line).any())
        if cut:
            notes = notes.only(notes.tick < line)
            notes = _NewNotes(notes.program, notes.pitch, notes.tick, np.minimum(notes.end, line))
    notes = _merge_notes(score, notes)
    for program in dict.fromkeys(notes.program.tolist()):
        own = notes.only(notes.program == program)
        velocity = loudness.of(program, accent_places(score, own.tick))
        _add_notes(_track_for(score, program, plan), own, velocity)
    score.tracks = [track for track in score.tracks if len(track.notes)]
    return score, len(notes.tick), cut


def _empty_score() -> Score:
    from symusic import Score, Tempo

    score = Score(_TICKS_PER_QUARTER)
    score.tempos.append(Tempo(0, _QPM))
    return score


def _to_ticks(plan: ArrivalPlan, score: Score, events: np.ndarray) -> _NewNotes:
    """Place events by the tempo map of a score; an event at the step of a note that stays begins with that note."""
    clock = Clock(score)
    steps, length = events[:, 0], events[:, 1] - DUR_OFFSET
    instrument, pitch = np.divmod(events[:, 2] - NOTE_OFFSET, PITCHES)
    tick = np.rint(clock.ticks(steps / STEPS_PER_SECOND)).astype(np.int64)
    known = plan.ticks_of or {}
    tick = np.array([known.get(step, at) for step, at in zip(steps.tolist(), tick.tolist(), strict=True)], np.int64)
    last = np.iinfo(np.int32).max if plan.last_tick is None else plan.last_tick - 1
    tick = np.clip(tick, plan.first_tick, max(plan.first_tick, last))
    end = np.maximum(np.rint(clock.ticks((steps + length) / STEPS_PER_SECOND)).astype(np.int64), tick + 1)
    if plan.is_gap and plan.last_tick is not None:
        end = np.minimum(end, plan.last_tick)
    return _NewNotes(np.where(instrument == DRUM_INSTRUMENT, DRUMS, instrument), pitch, tick, end)


def _last_line(score: Score, last_onset: int) -> int:
    """Return the last bar line at or before the last onset."""
    return max(line for line in bar_lines(score, last_onset) if line <= last_onset)


def _merge_notes(score: Score, notes: _NewNotes) -> _NewNotes:
    """Merge doubles, and end each note where the next of its instrument and pitch begins.

    A note that begins while a given one of its instrument and pitch sounds is left out: MIDI would end the given one.
    """
    given: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for track in score.tracks:
        for note in track.notes:
            span = (int(note.time), int(note.time) + int(note.duration))
            given.setdefault((program_of(track), int(note.pitch)), []).append(span)
    order = np.lexsort((-notes.end, notes.tick, notes.pitch, notes.program))
    kept: list[int] = []
    end = notes.end.copy()
    previous = -1
    for i in order.tolist():
        key = int(notes.program[i]), int(notes.pitch[i])
        at = int(notes.tick[i])
        spans = given.get(key, ())
        if any(first <= at < last or first == at for first, last in spans):
            continue
        end[i] = min(int(end[i]), min((first for first, _ in spans if first > at), default=int(end[i])))
        if previous >= 0 and key == (int(notes.program[previous]), int(notes.pitch[previous])):
            if notes.tick[previous] == at:
                continue
            end[previous] = min(int(end[previous]), at)
        kept.append(i)
        previous = i
    chosen = np.array(sorted(kept, key=lambda i: (int(notes.tick[i]), i)), np.int64)
    return _NewNotes(notes.program[chosen], notes.pitch[chosen], notes.tick[chosen], end[chosen])


def _track_for(score: Score, program: int, plan: ArrivalPlan) -> Track:
    """Return the first track of an instrument to which notes may be added, or a new one with the instrument's name."""
    from symusic import Track

    for index, track in enumerate(score.tracks):
        if program_of(track) == program and index not in plan.closed_tracks:
            return track
    drums = program == DRUMS
    score.tracks.append(Track(name=instrument_name(program), program=0 if drums else program, is_drum=drums))
    return score.tracks[-1]


def _add_notes(track: Track, notes: _NewNotes, velocity: np.ndarray) -> None:
    from symusic import Note

    added = Note.from_numpy(
        time=notes.tick.astype(np.int32),
        duration=(notes.end - notes.tick).astype(np.int32),
        pitch=notes.pitch.astype(np.int8),
        velocity=velocity.astype(np.int8),
    )
    track.notes.extend(added)
    track.notes.sort(key=lambda note: note.time, inplace=True)
