"""Programs of a MIDI file's tracks: those that stand in another track, and what no program tells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from musiclora.convert.errors import list_names, show_value
from musiclora.symbolic.formats.midi_events import (
    DRUM_CHANNEL,
    NOTE_ON,
    PROGRAM,
    TrackEvents,
    join_messages,
    read_all_events,
    read_events,
    read_messages,
)

if TYPE_CHECKING:
    from symusic import Score, Track

_DRUM_NAME = re.compile(
    r"\b(drums?|drum ?(?:kit|set)s?|percussions?|perc|kick|snare|hi-?hats?|cymbals?"
    r"|schlagzeug|batterie|bater[ií]a|batteria|perkussion)\b",
    re.IGNORECASE,
)
_PERCUSSIVE = frozenset((47, *range(112, 120)))  # timpani and the percussive family: pitched or single drums
_DRUM_BANKS = (120, 127)  # bank select for drums on any channel, by General MIDI 2 and by XG
_FIRST_BYTES = 256


@dataclass(frozen=True)
class Programs:
    """Tracks in which every program change stands with the notes that it is for, and remarks for the user.

    Attributes:
        tracks: content of each MTrk chunk; the same objects where nothing is changed.
        remarks: what the file does not say of its instruments.
    """

    tracks: list[bytes]
    remarks: tuple[str, ...] = ()


def find_programs(tracks: list[bytes], score: Score) -> Programs:
    """Give notes the program of their channel where the change stands in another track.

    A program holds for a channel, but symusic applies it to the notes of the same track only. Many sequencers write all
    programs into a track without notes, or only into the first of two tracks of one channel. A track with changes of
    its own keeps these. Channels are shared by the tracks of one port.

    Args:
        tracks: content of each MTrk chunk.
        score: score that symusic reads of them.
    """
    pitched = [track for track in score.tracks if len(track.notes) and not track.is_drum]
    pianos = sum(track.program == 0 for track in pitched)
    if not pianos or (len(tracks) == 1 and pianos < len(pitched)) or _name_their_own(tracks, score):
        return Programs(tracks)
    events = read_all_events(tracks)
    if not any((_kinds(one) == PROGRAM).any() for one in events):
        many = len(pitched) > 1
        return Programs(tracks, (f"no program change: its {len(pitched)} tracks are read as piano",) if many else ())
    missing = _find_missing(events)
    return Programs([_insert(track, missing[i]) if i in missing else track for i, track in enumerate(tracks)])


def _name_their_own(tracks: Sequence[bytes], score: Score) -> bool:
    """Return True where each track with notes is of one channel and begins with a program; reads beginnings only."""
    count = 0
    for track in tracks:
        opening = _read_opening(track)
        notes = opening[_is_note(opening)]
        if not len(notes):
            continue
        channel = int(notes[0, 1]) & 0xF
        if channel != DRUM_CHANNEL and not (opening[:, 1] == PROGRAM | channel).any():
            return False
        count += 1
    return count == sum(len(track.notes) > 0 for track in score.tracks)


def _read_opening(track: bytes) -> np.ndarray:
    """Read the events of a track up to its first note, int64 [n, 4]; all of a track without one."""
    size = _FIRST_BYTES
    while True:
        rows = read_events(track[:size]).rows
        first = np.flatnonzero(_is_note(rows))
        if len(first):
            return rows[: first[0] + 1]
        if size >= len(track):
            return rows
        size *= 8


def _is_note(rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = (rows[:, 1] >= NOTE_ON) & (rows[:, 1] < NOTE_ON + 16) & (rows[:, 3] > 0)
    return found


def _kinds(events: TrackEvents) -> np.ndarray:
    """Return the status of each channel message without its channel; other events have 0."""
    status = events.rows[:, 1]
    found: np.ndarray = np.where(status > 0xFF, 0, status & 0xF0)
    return found


def program_sources(events: Sequence[TrackEvents]) -> dict[tuple[int, int], list[int]]:
    """Find the tracks whose programs hold for the notes of a track that has none on their channel.

    Returns:
        numbers of tracks, by track and channel of the notes; no entry where no track of the port has a program there.
    """
    named: set[tuple[int, int]] = set()
    playing: set[tuple[int, int]] = set()
    for i, one in enumerate(events):
        playing |= {(i, int(status) & 0xF) for status in np.unique(one.rows[_is_note(one.rows), 1])}
        named |= {(i, int(status) & 0xF) for status in np.unique(one.rows[_kinds(one) == PROGRAM, 1])}
    sources: dict[tuple[int, int], list[int]] = {}
    for i, channel in sorted(playing - named):
        others = sorted(at for at, other in named if other == channel and events[at].port == events[i].port)
        silent = [at for at in others if (at, channel) not in playing]
        # of tracks with parts of their own the one before is the most likely to belong to this one
        nearest = sorted(others, key=lambda at: (at > i, abs(at - i)))[:1]
        if others:
            sources[i, channel] = silent or nearest
    return sources


def _find_missing(events: Sequence[TrackEvents]) -> dict[int, list[tuple[int, int, int]]]:
    """Find the program changes that each track lacks: tick, channel and program, by number of the track."""
    missing: dict[int, list[tuple[int, int, int]]] = {}
    for (i, channel), sources in program_sources(events).items():
        if channel == DRUM_CHANNEL:
            continue
        rows = np.concatenate([events[at].rows[events[at].rows[:, 1] == PROGRAM | channel] for at in sources])
        changes = rows[np.argsort(rows[:, 0], kind="stable")][:, [0, 2]].tolist()
        if any(program for _, program in changes):
            missing.setdefault(i, []).extend((tick, channel, program) for tick, program in changes)
    return missing


def _insert(track: bytes, changes: Sequence[tuple[int, int, int]]) -> bytes:
    """Write program changes into a track, before all other events of their tick; a damaged track stays as it is."""
    messages, whole = read_messages(track)
    if not whole:
        return track
    added = [(tick, bytes((PROGRAM | channel, program))) for tick, channel, program in changes]
    return join_messages(sorted([*added, *messages], key=lambda item: item[0]))


def describe_doubtful_drums(score: Score) -> tuple[str, ...]:
    """Name the tracks that look like drums but are not on channel 10, so that their notes are taken for pitches."""
    doubtful = [
        track.name.strip() or "without a name"
        for track in score.tracks
        if len(track.notes) and not track.is_drum and (_is_named_as_drums(track) or _selects_drums(track))
    ]
    if not doubtful:
        return ()
    names = list_names([show_value(name, 40) for name in dict.fromkeys(doubtful)], 3)
    return (f"looks like drums but is not on channel 10, so its notes are read as pitches: {names}",)


def _is_named_as_drums(track: Track) -> bool:
    return (
        track.program not in _PERCUSSIVE and "steel" not in track.name.lower() and bool(_DRUM_NAME.search(track.name))
    )


def _selects_drums(track: Track) -> bool:
    """Return True where the track selects a bank of drums on an ordinary channel."""
    return any(change.number == 0 and change.value in _DRUM_BANKS for change in track.controls)
