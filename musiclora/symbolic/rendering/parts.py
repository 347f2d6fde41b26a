"""Parts of a MIDI file for a synthesiser: each keeps its own channel settings, in as many passes as that needs.

A synthesiser has 16 channels, a file any number of tracks that share them. Each track's share of a channel is a part;
at most 15 parts and one of drums are played in one pass, and the passes are mixed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.convert.errors import DataError
from musiclora.symbolic.formats.midi_events import (
    BEND,
    CONTROL,
    DRUM_CHANNEL,
    NOTE_OFF,
    NOTE_ON,
    PROGRAM,
    TEMPO,
    TrackEvents,
    join_messages,
    pair_notes,
)
from musiclora.symbolic.formats.programs import program_sources

TICKS_PER_SECOND = 960  # of the MIDI files for the synthesiser: 480 a quarter at 120 quarters a minute
FADE_SECONDS = 2.0  # time for the last notes to fade
MAX_PARTS = 240
_LONGEST_NOTE_SECONDS = 30.0
_SHORTEST_NOTE_SECONDS = 0.02
_PARTS_IN_PASS = 15
_NOTES_IN_PASS = 32  # midirenderer has 64 voices, which fading notes need too, and drops notes beyond them
_MICROSECONDS = (60_000, 15_000_000)  # of a quarter: 1000 to 4 quarters a minute
_VOLUME, _EXPRESSION, _RESET = 7, 11, 121
_INITIAL = {_VOLUME: 100, _EXPRESSION: 127}  # by the General MIDI standard
_PRESSURE = 0xD0
_NO_ROWS = np.zeros((0, 4), np.int64)
_CHANNEL_MODES = (122, 124, 125, 126, 127)  # would regroup the synthesiser's channels


@dataclass(frozen=True)
class Part:
    """One channel of one track.

    Attributes:
        is_drum: True for the drum channel.
        settings: int64 [n, 4]: tick, status without channel, two data values, in order. A track's own settings come
            first; of kinds that it lacks those of tracks which only set up its channel count too.
        notes: int64 [m, 4]: begin and end in ticks, pitch, velocity.
    """

    is_drum: bool
    settings: np.ndarray
    notes: np.ndarray


@dataclass(frozen=True)
class Arrangement:
    """Parts of a file, and what of it is not played.

    Attributes:
        parts: parts with notes; ticks of TICKS_PER_SECOND.
        end: tick of the last note's end.
        remarks: parts and notes left out.
    """

    parts: list[Part]
    end: int
    remarks: list[str]


def arrange_parts(
    tracks: Sequence[TrackEvents],
    division: int,
    max_seconds: float,
    use_tempos: bool,
    select: Callable[[int, int, Part], Part] | None = None,
) -> Arrangement:
    """Split the events of a file into parts with their own settings.

    Args:
        tracks: events of each track.
        division: ticks a quarter.
        max_seconds: later notes are left out, longer ones cut.
        use_tempos: False for files in SMPTE time.
        select: drops notes of a part, given its track and channel; the settings of all parts count still.

    Raises:
        DataError: no note is left, or every channel has volume 0.
    """
    knots, seconds = _tempo_map(tracks, division, use_tempos)

    def to_ticks(times: np.ndarray) -> np.ndarray:
        at = np.searchsorted(knots, times, side="right") - 1
        passed = seconds[0][at] + (times - knots[at]) * seconds[1][at]
        ticks: np.ndarray = np.round(np.minimum(passed, 1e7) * TICKS_PER_SECOND).astype(np.int64)
        return ticks

    last = round(max_seconds * TICKS_PER_SECOND)
    listed = [select(track, channel, part) if select else part for track, channel, part in list_parts(tracks, division)]
    found = [_timed(part, to_ticks) for part in listed if len(part.notes)]
    end = max((int(part.notes[:, 1].max()) for part in found), default=0)
    parts = [cut for part in found if len((cut := _cut_part(part, last)).notes)]
    if not parts:
        raise DataError(f"it has no notes in its first {max_seconds:.0f} s" if end else "it has no notes")
    remarks = []
    if end > last:
        remarks.append(f"ends after {max_seconds / 60:.0f} of {end / TICKS_PER_SECOND / 60:.1f} minutes")
    if len(parts) > MAX_PARTS:
        remarks.append(f"{len(parts) - MAX_PARTS} of {len(parts)} parts are left out; at most {MAX_PARTS} are played")
    parts = _raise_volumes(parts[:MAX_PARTS])
    return Arrangement(parts, max(int(p.notes[:, 1].max()) for p in parts), remarks)


def _tempo_map(
    tracks: Sequence[TrackEvents], division: int, use_tempos: bool
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the ticks of the tempo changes, the seconds until each, and the seconds a tick from each on."""
    found = {0: 500_000}
    for events in tracks if use_tempos else ():
        rows = events.rows[events.rows[:, 1] == TEMPO]
        found |= {t: v for t, _, v, _ in rows.tolist() if _MICROSECONDS[0] <= v <= _MICROSECONDS[1]}
    knots = np.array(sorted(found), np.int64)
    lengths = np.array([found[t] for t in knots.tolist()], float) / 1e6 / division
    until = np.concatenate([[0.0], np.cumsum(np.diff(knots) * lengths[:-1])])
    return knots, (until, lengths)


def list_parts(tracks: Sequence[TrackEvents], division: int) -> Iterator[tuple[int, int, Part]]:
    """List track, channel and part, with times in ticks of the file, wherever there are notes."""
    settings = [_settings_by_channel(events) for events in tracks]
    notes = [pair_notes(events, division) for events in tracks]
    playing = [set(np.unique(found[:, 0]).tolist()) for found in notes]
    sources = program_sources(tracks)
    for number, found in enumerate(notes):
        for channel in sorted(playing[number]):
            own = settings[number].get(channel, _NO_ROWS)
            has_program = bool((own[:, 1] == PROGRAM).any())
            # a track without a program shares the channel with others, as in piano files with a track a hand
            shared = [] if has_program else sources.get((number, channel), range(len(tracks)))
            others = [
                rows[channel]
                for i, rows in enumerate(settings)
                if i != number and channel in rows and tracks[i].port == tracks[number].port
                if i in shared or channel not in playing[i]
            ]
            mine = found[found[:, 0] == channel]
            timed = np.stack([mine[:, 1], mine[:, 1] + mine[:, 2], mine[:, 3], mine[:, 4]], 1)
            yield number, channel, Part(channel == DRUM_CHANNEL, _merge_settings(own, others), timed)


def _settings_by_channel(events: TrackEvents) -> dict[int, np.ndarray]:
    """Collect programs, controls, bends and pressures of each channel; the status loses the channel."""
    rows = events.rows[events.rows[:, 1] < 0x100]
    high = rows[:, 1] & 0xF0
    is_mode = (high == CONTROL) & np.isin(rows[:, 2], _CHANNEL_MODES)
    rows = rows[np.isin(high, (CONTROL, PROGRAM, BEND, _PRESSURE)) & ~is_mode]
    channels = rows[:, 1] & 0x0F
    bare = rows & np.array([-1, 0xF0, -1, -1])
    return {channel: bare[channels == channel] for channel in np.unique(channels).tolist()}


def _merge_settings(own: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Add to a part's settings those of other tracks, of kinds that it lacks."""
    kinds = np.unique(_kinds(own))
    merged = np.concatenate([own, *(rows[~np.isin(_kinds(rows), kinds)] for rows in others)])
    return merged[np.argsort(merged[:, 0], kind="stable")]


def _kinds(rows: np.ndarray) -> np.ndarray:
    """Number the kinds of settings: the status, and of controls their number too."""
    return rows[:, 1] << 7 | np.where(rows[:, 1] == CONTROL, rows[:, 2], 0)


def _timed(part: Part, to_ticks: Callable[[np.ndarray], np.ndarray]) -> Part:
    """Convert the file's ticks to the synthesiser's; notes get a length that is neither nil nor endless."""
    settings, notes = part.settings.copy(), part.notes.copy()
    settings[:, 0], notes[:, 0], notes[:, 1] = (to_ticks(a) for a in (settings[:, 0], notes[:, 0], notes[:, 1]))
    shortest, longest = (round(s * TICKS_PER_SECOND) for s in (_SHORTEST_NOTE_SECONDS, _LONGEST_NOTE_SECONDS))
    notes[:, 1] = notes[:, 0] + np.clip(notes[:, 1] - notes[:, 0], shortest, longest)
    return Part(part.is_drum, settings, notes)


def _cut_part(part: Part, last: int) -> Part:
    """Leave out what begins after a tick, and end what sounds there."""
    notes = part.notes[part.notes[:, 0] < last]
    ends = np.minimum(notes[:, 1], np.maximum(last, notes[:, 0] + 1))
    columns = np.column_stack([notes[:, 0], ends, notes[:, 2:]])
    return Part(part.is_drum, part.settings[part.settings[:, 0] < last], columns)


def _raise_volumes(parts: Sequence[Part]) -> list[Part]:
    """Scale volume and expression of all parts by common factors, so that the loudest is at 127.

    Synthesisers drop what is very soft, and 16 bits hold little of it; the mix is scaled to its peak afterwards anyway.

    Raises:
        DataError: every note is at volume 0.
    """
    factors = {}
    for number, initial in _INITIAL.items():
        loudest = max(int(_value_at_notes(part, number, initial).max()) for part in parts)
        if not loudest:
            raise DataError(f"every channel has {'volume' if number == _VOLUME else 'expression'} 0")
        factors[number] = 127 / loudest
    return [_scale_settings(part, factors) for part in parts]


def _value_at_notes(part: Part, number: int, initial: int) -> np.ndarray:
    """Return the value of a controller when each note begins."""
    rows = part.settings[(part.settings[:, 1] == CONTROL) & (part.settings[:, 2] == number)]
    values = np.concatenate([[initial], rows[:, 3]])
    found: np.ndarray = values[np.searchsorted(rows[:, 0], part.notes[:, 0], side="right")]
    return found


def _scale_settings(part: Part, factors: dict[int, float]) -> Part:
    rows: list[tuple[int, int, int, int]] = []

    def add_scaled(tick: int, number: int, value: int) -> None:
        rows.append((tick, CONTROL, number, min(127, round(value * factors[number]))))

    for number, initial in _INITIAL.items():
        add_scaled(0, number, initial)
    for tick, status, first, second in part.settings.tolist():
        if status == CONTROL and first in _INITIAL:
            add_scaled(tick, first, second)
            continue
        rows.append((tick, status, first, second))
        if status == CONTROL and first == _RESET:
            add_scaled(tick, _EXPRESSION, _INITIAL[_EXPRESSION])
    return Part(part.is_drum, np.array(rows, np.int64).reshape(-1, 4), part.notes)


def scale_volume(part: Part, factor: float) -> Part:
    """Multiply a part's volumes, all set explicitly, by a factor of at most 1."""
    settings = part.settings.copy()
    at = (settings[:, 1] == CONTROL) & (settings[:, 2] == _VOLUME)
    settings[at, 3] = np.round(settings[at, 3] * factor)
    return Part(part.is_drum, settings, part.notes)


def split_passes(parts: Sequence[Part]) -> list[list[Part]]:
    """Split parts into passes of at most 15 and one of drums, and of no more notes at a time than voices allow."""
    passes: list[list[Part]] = [[]]
    voices = 0
    for part in sorted(parts, key=lambda part: part.is_drum):
        own = _most_at_a_time(part.notes)
        full = sum(p.is_drum == part.is_drum for p in passes[-1]) >= (1 if part.is_drum else _PARTS_IN_PASS)
        if passes[-1] and (full or voices + own > _NOTES_IN_PASS):
            passes.append([])
            voices = 0
        passes[-1].append(part)
        voices += own
    return passes


def _most_at_a_time(notes: np.ndarray) -> int:
    """Count the notes that sound at once, at the fullest moment."""
    times = np.concatenate([notes[:, 1], notes[:, 0]])  # ends before begins at one time
    steps = np.repeat([-1, 1], len(notes))
    return int(np.cumsum(steps[np.argsort(times, kind="stable")]).max())


def pass_midi(parts: Sequence[Part], end: int) -> bytes:
    """Build the MIDI file of one pass, each part on a channel of its own; it ends when the last note has faded."""
    free = iter([c for c in range(16) if c != DRUM_CHANNEL])
    events: list[tuple[int, int, bytes]] = []
    for part in parts:
        channel = DRUM_CHANNEL if part.is_drum else next(free)
        for tick, status, first, second in part.settings.tolist():
            values = (first,) if status in (PROGRAM, _PRESSURE) else (first, second)
            events.append((tick, 1, bytes((status | channel, *values))))
        for begin, stop, pitch, velocity in part.notes.tolist():
            events.append((begin, 2, bytes((NOTE_ON | channel, pitch, velocity))))
            events.append((stop, 0, bytes((NOTE_OFF | channel, pitch, 0))))
    # the synthesiser stops at the last event: a silent one leaves time to fade
    events.append((end + round(FADE_SECONDS * TICKS_PER_SECOND), 3, bytes((CONTROL, 64, 0))))
    events.sort(key=lambda event: event[:2])
    body = join_messages((tick, message) for tick, _, message in events)
    return struct.pack(">4sIHHH4sI", b"MThd", 6, 0, 1, TICKS_PER_SECOND // 2, b"MTrk", len(body)) + body
