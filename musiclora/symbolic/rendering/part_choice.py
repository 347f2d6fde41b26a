"""Choice of the parts of a song that are heard, and a MIDI file of them that keeps everything else."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from musiclora.convert.errors import ConfigError, list_names, show_value
from musiclora.music.instruments import DRUMS, instrument_name
from musiclora.music.part_names import named_programs, normalise_name, track_number
from musiclora.symbolic.formats.midi_events import NOTE_OFF, NOTE_ON, PROGRAM, TrackEvents, join_messages, read_messages
from musiclora.symbolic.rendering.parts import Part, list_parts

_TOUCH = 0xA0  # pressure on one key
_TRACK_NAME = 0x03


@dataclass(frozen=True)
class SongPart:
    """One channel of one track, with notes.

    Attributes:
        track, channel: where it stands in the file, from 0.
        number: how a user names it: `track 1` is the first part with notes.
        name: name of the track; empty without one.
        changes: int64 [n, 2]: tick and program of each change; the first stands before every note.
        programs: of its notes, sorted.
    """

    track: int
    channel: int
    number: int
    name: str
    changes: np.ndarray
    programs: tuple[int, ...]

    def programs_at(self, ticks: np.ndarray) -> np.ndarray:
        """Return the program at each tick, int64 [N]."""
        found: np.ndarray = self.changes[np.searchsorted(self.changes[:, 0], ticks, side="right") - 1, 1]
        return found

    def describe(self) -> str:
        """Return its number, name and instruments: `track 2 "Lead" (Flute)`."""
        name = f" {show_value(self.name, 40)}" if self.name else ""
        return f"track {self.number}{name} ({', '.join(map(instrument_name, self.programs))})"


@dataclass(frozen=True)
class Choice:
    """Parts that are heard.

    Attributes:
        parts: all parts of the song.
        heard: number and program of what is heard; a part may change its program.
    """

    parts: tuple[SongPart, ...]
    heard: frozenset[tuple[int, int]]

    def heard_parts(self) -> list[SongPart]:
        """List the parts that are heard, wholly or with one of their programs."""
        numbers = {number for number, _ in self.heard}
        return [part for part in self.parts if part.number in numbers]

    @cached_property
    def _programs(self) -> dict[tuple[int, int], tuple[SongPart, list[int]]]:
        """Return each part and its programs that are heard, by track and channel."""
        heard: dict[int, list[int]] = {part.number: [] for part in self.parts}
        for number, program in self.heard:
            heard[number].append(program)
        return {(part.track, part.channel): (part, heard[part.number]) for part in self.parts}

    def heard_notes(self, track: int, channel: int, ticks: np.ndarray) -> np.ndarray:
        """Tell for notes of a part that begin at these ticks which are heard, bool [N]."""
        if (track, channel) not in self._programs:
            return np.ones(len(ticks), bool)
        part, programs = self._programs[track, channel]
        return np.isin(part.programs_at(ticks), programs)

    def keep_heard(self, track: int, channel: int, part: Part) -> Part:
        """Return a part without the notes that are not heard."""
        return Part(part.is_drum, part.settings, part.notes[self.heard_notes(track, channel, part.notes[:, 0])])


def list_song_parts(events: Sequence[TrackEvents], raw: Sequence[bytes], division: int) -> tuple[SongPart, ...]:
    """List the parts of a song with their names and programs, as they are played.

    Args:
        events, raw: of each track, as read and as bytes.
        division: ticks a quarter.
    """
    found = []
    for number, (track, channel, part) in enumerate(list_parts(events, division), 1):
        rows = part.settings[part.settings[:, 1] == PROGRAM][:, [0, 2]]
        first = [[np.iinfo(np.int64).min, DRUMS if part.is_drum else 0]]
        changes = np.array(first, np.int64) if part.is_drum else np.concatenate([first, rows])
        song_part = SongPart(track, channel, number, track_name(raw[track]), changes, ())
        programs = np.unique(song_part.programs_at(part.notes[:, 0])).tolist()
        found.append(SongPart(track, channel, number, song_part.name, changes, tuple(programs)))
    return tuple(found)


def track_name(data: bytes) -> str:
    """Read the name of a track from its bytes, in UTF-8 or Latin-1; empty without one."""
    for _, message in read_messages(data)[0]:
        if message[:2] == bytes((0xFF, _TRACK_NAME)):
            text = _meta_text(message)
            try:
                name = text.decode("utf-8")
            except UnicodeDecodeError:
                name = text.decode("latin-1")
            return " ".join(name.replace("\0", " ").split())
    return ""


def _meta_text(message: bytes) -> bytes:
    """Return the content of a meta message, whose length stands before it, seven bits a byte."""
    at = 2
    while message[at] >= 0x80:
        at += 1
    return message[at + 1 :]


def choose_parts(parts: Sequence[SongPart], solo: str | None, mute: str | None) -> Choice:
    """Choose what is heard: what `solo` names, or else everything, without what `mute` names.

    Args:
        parts: of the song.
        solo, mute: names or numbers of General MIDI instruments, `drums`, names of tracks, or `track N` or `#N`, with
            commas between them; None for no such option.

    Raises:
        ConfigError: a name fits nothing in the song, or nothing is left.
    """
    heard = {(part.number, program) for part in parts for program in part.programs}
    if solo is not None:
        heard = _named("--solo", solo, parts)
    if mute is not None:
        heard -= _named("--mute", mute, parts)
    if not heard:
        options = "--mute" if solo is None else "--mute and --solo"
        raise ConfigError(f"{options}: nothing is left of the song; {_list_parts(parts)}")
    return Choice(tuple(parts), frozenset(heard))


def _named(option: str, text: str, parts: Sequence[SongPart]) -> set[tuple[int, int]]:
    """Return number and program of what a list names."""
    is_name = any(normalise_name(part.name) == normalise_name(text) for part in parts)
    items = [text] if is_name else [item.strip() for item in text.split(",") if item.strip()]  # a name may hold commas
    if not items:
        raise ConfigError(f"{option}: names nothing; {_list_parts(parts)}")
    found = [_matches(item, parts) for item in items]
    if unknown := [show_value(item) for item, match in zip(items, found, strict=True) if not match]:
        raise ConfigError(f"{option}: nothing in the song is called {list_names(unknown)}; {_list_parts(parts)}")
    return {entry for match in found for entry in match}


def _list_parts(parts: Sequence[SongPart]) -> str:
    return f"it has {list_names([part.describe() for part in parts])}"


def _matches(item: str, parts: Sequence[SongPart]) -> set[tuple[int, int]]:
    """Return what one name means: a track by number or name; instruments by name, number, or words of their name."""
    wanted, number = normalise_name(item), track_number(item)
    tracks = {part.number for part in parts if normalise_name(part.name) == wanted}
    tracks = tracks or {part.number for part in parts if part.number == number}
    programs = named_programs(item, {program for part in parts for program in part.programs})
    return {
        (part.number, program)
        for part in parts
        for program in part.programs
        if part.number in tracks or program in programs
    }


def select_messages(raw: Sequence[bytes], choice: Choice, muted: bool = False) -> list[bytes]:
    """Build the tracks of the parts that are heard, or of those that are not; all that is no note stays in place."""
    return [join_messages(_kept_messages(number, data, choice, muted)) for number, data in enumerate(raw)]


def _kept_messages(track: int, data: bytes, choice: Choice, muted: bool) -> Iterator[tuple[int, bytes]]:
    """List the messages of a track without the notes that are not chosen, and the pressure on their keys."""
    messages = read_messages(data)[0]
    ticks = np.array([tick for tick, _ in messages], np.int64)
    channels = {message[0] & 0x0F for _, message in messages if message[0] < 0xF0}
    heard = {channel: choice.heard_notes(track, channel, ticks) != muted for channel in channels}
    sounding: dict[tuple[int, int], list[bool]] = {}  # whether each note of a key is kept, the oldest first
    for place, (tick, message) in enumerate(messages):
        kind, channel = message[0] & 0xF0, message[0] & 0x0F
        if kind not in (NOTE_OFF, NOTE_ON, _TOUCH):
            yield tick, message
            continue
        keys = sounding.setdefault((channel, message[1]), [])
        kept = bool(heard[channel][place])
        if kind == NOTE_ON and message[2]:
            keys.append(kept)
        elif keys:
            kept = keys[0] if kind == _TOUCH else keys.pop(0)
        if kept:
            yield tick, message


def midi_file(tracks: Sequence[bytes], time_division: bytes) -> bytes:
    """Build a MIDI file of tracks, with the two bytes of the time division of another."""
    head = struct.pack(">4sIHH", b"MThd", 6, 0 if len(tracks) == 1 else 1, len(tracks))
    return head + time_division + b"".join(struct.pack(">4sI", b"MTrk", len(track)) + track for track in tracks)
