"""Events of MIDI tracks, read one by one: a damaged track is used up to the damage."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from musiclora.convert.errors import DataError

if TYPE_CHECKING:
    from symusic import Score, Track

MAX_EVENTS = 500_000  # of one file; a symphony has about 200,000
MAX_TICKS = 2**31 - 1
NOTE_OFF, NOTE_ON, CONTROL, PROGRAM, BEND = 0x80, 0x90, 0xB0, 0xC0, 0xE0
TEMPO, METRE = 0x151, 0x158  # meta events, told from channel messages by bit 8
DRUM_CHANNEL = 9


@dataclass(frozen=True)
class TrackEvents:
    """Events of one track.

    Attributes:
        rows: int64 [n, 4]: tick, status, and two data values. Channel messages have their status byte. TEMPO has
            microseconds a quarter, METRE numerator and denominator.
        end: tick of the last event.
        problem: reason why the rest of the track was not read, or empty.
        repairs: repairs of single events.
        port: the tracks of one port share 16 channels.
    """

    rows: np.ndarray
    end: int
    problem: str = ""
    repairs: tuple[str, ...] = ()
    port: int = 0


@dataclass
class _Reader:
    """State of `read_events`: bytes, position, position after the latest delta time, tick, running status and port."""

    data: bytes
    at: int = 0
    begun: int = 0
    now: int = 0
    running: int = 0
    port: int | None = None
    masked: bool = False
    rows: array[int] = field(default_factory=lambda: array("q"))

    def read_number(self) -> int:
        """Read a quantity of seven bits a byte; more than the standard's four bytes may be padding."""
        value = 0
        for _ in range(8):
            byte = self.data[self.at]
            self.at += 1
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        raise ValueError("a number of more than eight bytes")

    def read_event(self) -> bool:
        """Read one event; return False at the end of the track.

        Raises:
            IndexError: the track ends inside the event.
            ValueError: the bytes are no event.
        """
        self.now += self.read_number()
        if self.now > MAX_TICKS:
            raise ValueError("times past 2^31 ticks")
        self.begun = self.at
        status = self.data[self.at]
        if status >= 0x80:
            self.at += 1
        else:
            status = self.running
        if status < 0x80:
            raise ValueError("data without a status byte")
        if status < 0xF0:
            self._read_channel_message(status)
            return True
        return self._read_system_message(status)

    def _read_channel_message(self, status: int) -> None:
        self.running = status
        first, second = self.data[self.at], 0
        self.at += 1
        if status & 0xF0 not in (0xC0, 0xD0):
            second = self.data[self.at]
            self.at += 1
        self.masked = self.masked or (first | second) > 0x7F
        self.rows.extend((self.now, status, first & 0x7F, second & 0x7F))

    def _read_system_message(self, status: int) -> bool:
        kind = -1
        if status == 0xFF:
            kind = self.data[self.at]
            self.at += 1
        elif status not in (0xF0, 0xF7):
            self.at += {0xF1: 1, 0xF2: 2, 0xF3: 1}.get(status, 0)
            return True
        length = self.read_number()
        body = self.data[self.at : self.at + length]
        if len(body) < length:
            raise IndexError
        self.at += length
        if kind == 0x21 and length == 1 and self.port is None:
            self.port = body[0]
        elif kind == 0x51 and length == 3:
            self.rows.extend((self.now, TEMPO, int.from_bytes(body, "big"), 0))
        elif kind == 0x58 and length >= 2:
            # symusic holds 8 bits; a denominator of 0 is dropped later, as every impossible metre is
            self.rows.extend((self.now, METRE, body[0], 1 << body[1] if body[1] < 8 else 0))
        return kind != 0x2F


def read_events(data: bytes, most: int = MAX_EVENTS) -> TrackEvents:
    """Read the events of a track up to its end, or up to the first that is cut off or damaged.

    Args:
        data: content of an MTrk chunk.
        most: number of events that are read.

    Raises:
        DataError: there are more events.
    """
    reader, problem, count = _Reader(data), "", 0
    try:
        while reader.at < len(data):
            kept, now = len(reader.rows), reader.now
            if (count := count + 1) > most:
                raise DataError(f"more than {MAX_EVENTS} events; no song has so many")
            if not reader.read_event():
                break
    except IndexError:
        problem = "cut off"
    except ValueError as error:
        problem = str(error)
    if problem:
        del reader.rows[kept:]
        reader.now = now
    rows = np.frombuffer(reader.rows, np.int64).reshape(-1, 4) if len(reader.rows) else np.zeros((0, 4), np.int64)
    repairs = ("bytes over 127 cut to 7 bits",) if reader.masked else ()
    return TrackEvents(rows, reader.now, problem, repairs, reader.port or 0)


def read_messages(data: bytes) -> tuple[list[tuple[int, bytes]], bool]:
    """Read the messages of a track as they stand, each with its status byte, up to its end or to the first damage.

    Returns:
        tick and bytes of each message, without the one that ends the track, and True where all were read.
    """
    reader, found = _Reader(data), []
    try:
        while reader.at < len(data):
            if not reader.read_event():
                break
            message = data[reader.begun : reader.at]
            if message[0] < 0xF0:  # a channel message, or data that continue the running status
                values = message[1:] if message[0] >= 0x80 else message
                message = bytes((reader.running, *(value & 0x7F for value in values)))
            found.append((reader.now, message))
    except (IndexError, ValueError):
        return found, False
    return found, True


def join_messages(messages: Iterable[tuple[int, bytes]]) -> bytes:
    """Write messages (tick, bytes with status) in order of time as the content of an MTrk chunk, with its end."""
    content, now = bytearray(), 0
    for tick, message in messages:
        content += _variable_length(tick - now) + message
        now = tick
    return bytes(content) + b"\x00\xff\x2f\x00"


def _variable_length(value: int) -> bytes:
    """Write a number in groups of seven bits, as MIDI does."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def read_all_events(tracks: Sequence[bytes]) -> list[TrackEvents]:
    """Read the events of all tracks of a file.

    Raises:
        DataError: there are more than MAX_EVENTS.
    """
    found: list[TrackEvents] = []
    left = MAX_EVENTS
    for data in tracks:
        found.append(read_events(data, left))
        left -= len(found[-1].rows)
    return found


def has_notes(events: TrackEvents) -> bool:
    """Return True where a note begins in the track."""
    rows = events.rows
    return bool(((rows[:, 1] >= NOTE_ON) & (rows[:, 1] < NOTE_ON + 16) & (rows[:, 3] > 0)).any())


def pair_notes(events: TrackEvents, shortest: int) -> np.ndarray:
    """Pair the notes' begins and ends, int64 [n, 5]: channel, tick, duration, pitch, velocity.

    A note that begins while the same one sounds ends it. One without an end lasts to the end of the track, and at least
    `shortest` ticks; in a damaged track it is left out, since its length is unknown.
    """
    notes: list[tuple[int, int, int, int, int]] = []
    sounding: dict[tuple[int, int], tuple[int, int]] = {}
    for tick, status, pitch, velocity in events.rows.tolist():
        if status & 0xF0 not in (NOTE_OFF, NOTE_ON) or status > 0xFF:
            continue
        key = (status & 0xF, pitch)
        if key in sounding:
            start, loudness = sounding.pop(key)
            notes.append((key[0], start, tick - start, pitch, loudness))
        if status & 0xF0 == NOTE_ON and velocity:
            sounding[key] = (tick, velocity)
    for (channel, pitch), (start, loudness) in () if events.problem else sounding.items():
        notes.append((channel, start, max(events.end - start, shortest), pitch, loudness))
    return np.array(notes, np.int64).reshape(-1, 5)


def score_of_events(tracks: Sequence[TrackEvents], division: int) -> Score:
    """Build a score in ticks: one track for each channel and program of each track."""
    from symusic import Score, Tempo, TimeSignature

    score = Score(division)
    for events in tracks:
        for tick, status, first, second in events.rows[events.rows[:, 1] > 0xFF].tolist():
            if status == TEMPO and first:
                score.tempos.append(Tempo(tick, 6e7 / first))
            elif status == METRE:
                score.time_signatures.append(TimeSignature(tick, first, second))
        notes = pair_notes(events, division)
        for channel in np.unique(notes[:, 0]).tolist():
            score.tracks.extend(_build_tracks(events, notes[notes[:, 0] == channel], channel))
    return score


def _build_tracks(events: TrackEvents, notes: np.ndarray, channel: int) -> list[Track]:
    """Build one track for each program of a channel; a change counts from its tick on."""
    rows = events.rows
    changes = rows[rows[:, 1] == PROGRAM | channel]
    programs = np.append(0, changes[:, 2])

    def program_at(ticks: np.ndarray) -> np.ndarray:
        found: np.ndarray = programs[np.searchsorted(changes[:, 0], ticks, side="right")]
        return found

    played, set_for = program_at(notes[:, 1]), program_at(rows[:, 0])
    _, first = np.unique(played, return_index=True)
    return [
        _build_track(rows[set_for == program], notes[played == program], channel, program)
        for program in played[np.sort(first)].tolist()
    ]


def _build_track(rows: np.ndarray, notes: np.ndarray, channel: int, program: int) -> Track:
    from symusic import ControlChange, Note, PitchBend, Track

    track = Track(program=program, is_drum=channel == DRUM_CHANNEL)
    time, duration, pitch, velocity = notes[np.argsort(notes[:, 1], kind="stable"), 1:].astype(np.int32).T.copy()
    track.notes = Note.from_numpy(
        time=time, duration=duration, pitch=pitch.astype(np.int8), velocity=velocity.astype(np.int8)
    )
    for tick, _, number, value in rows[rows[:, 1] == CONTROL | channel].tolist():
        track.controls.append(ControlChange(tick, number, value))
    for tick, _, low, high in rows[rows[:, 1] == BEND | channel].tolist():
        track.pitch_bends.append(PitchBend(tick, (high << 7 | low) - 8192))
    return track
