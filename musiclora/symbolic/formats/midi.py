"""Tolerant MIDI reader: unwraps containers, repairs headers and chunk lengths, reads by symusic, then by mido."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from musiclora.convert.errors import DataError

if TYPE_CHECKING:
    from symusic import Score

MAX_MIDI_BYTES = 16 * 2**20
MAX_MIDO_BYTES = 2**20  # mido takes 14 s for 300,000 notes
_DEFAULT_QPM = 120.0


@dataclass(frozen=True)
class Parsed:
    """One score of a file, and the repairs that reading it needed."""

    score: Score
    repairs: tuple[str, ...]


def unwrap_midi(data: bytes) -> tuple[bytes, list[str]]:
    """Extract MIDI from gzip, zip, RIFF RMID, MacBinary and similar containers.

    Returns:
        the bytes from `MThd` on, and the repairs.

    Raises:
        DataError: there is no `MThd`.
    """
    repairs = []
    if data[:2] == b"\x1f\x8b":
        data = _unpack_gzip(data)
        repairs.append("unpacked from gzip")
    elif data[:4] == b"PK\x03\x04":
        data = _unpack_zip(data)
        repairs.append("unpacked from zip")
    at = data.find(b"MThd", 0, 4096)  # MacBinary puts 128 bytes before it, RMID 20, a byte order mark 3
    if at < 0:
        raise DataError(f"no MIDI file: it begins with {data[:8]!r}, and no MThd follows")
    if at > 0:
        repairs.append("RIFF wrapper removed" if data[:4] == b"RIFF" else f"{at} bytes before the header removed")
    return data[at:], repairs


def _unpack_gzip(data: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            return _check_size(file.read(MAX_MIDI_BYTES + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"damaged gzip ({error})") from error


def _unpack_zip(data: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [n for n in archive.namelist() if n.lower().endswith((".mid", ".midi", ".kar"))]
            if len(names) != 1:
                raise DataError(f"a zip archive with {len(names)} MIDI files; unpack it")
            with archive.open(names[0]) as file:
                return _check_size(file.read(MAX_MIDI_BYTES + 1))
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, RuntimeError, NotImplementedError) as error:
        raise DataError(f"damaged or locked zip ({error})") from error


def _check_size(data: bytes) -> bytes:
    if len(data) > MAX_MIDI_BYTES:
        raise DataError(f"larger than {MAX_MIDI_BYTES >> 20} MB when unpacked")
    return data


@dataclass(frozen=True)
class _FileLayout:
    """Header values and raw tracks of a file.

    Attributes:
        form: MIDI format, 0 to 2.
        division: ticks in a quarter.
        tracks: content of each MTrk chunk.
        smpte: True where the header counts in SMPTE time.
        repairs: repairs of header and chunks.
    """

    form: int
    division: int
    tracks: list[bytes]
    smpte: bool
    repairs: list[str]

    def bytes(self, tracks: list[bytes]) -> bytes:
        """Build a well-formed file of the tracks."""
        head = struct.pack(">4sIHHH", b"MThd", 6, 0 if len(tracks) == 1 else 1, len(tracks), self.division)
        return head + b"".join(struct.pack(">4sI", b"MTrk", len(t)) + t for t in tracks)


def _read_layout(data: bytes) -> _FileLayout:
    if len(data) < 14:
        raise DataError(f"the header is cut off after {len(data)} bytes")
    length, form, declared, division = struct.unpack(">IHHH", data[4:14])
    repairs = []
    if length != 6:
        repairs.append(f"header length {length} instead of 6")
    body = 8 + length if 6 <= length <= 1024 else 14
    tracks = _read_tracks(data, body, repairs)
    if not tracks:
        raise DataError("it has no track")
    if form not in (0, 1, 2):
        repairs.append(f"format {form} read as 1")
    if declared != len(tracks):
        repairs.append(f"header says {declared} tracks, {len(tracks)} are there")
    smpte = division >= 0x8000
    if smpte:
        ticks = (256 - (division >> 8)) * (division & 0xFF)
        division = ticks // 2  # no quarters in SMPTE time: 120 a minute make half a second one quarter
        repairs.append(f"SMPTE time of {ticks} ticks a second read as 120 quarters a minute")
    if not 0 < division < 0x8000:
        raise DataError("the time division is 0, so its times mean nothing")
    return _FileLayout(form, division, tracks, smpte, repairs)


def _read_tracks(data: bytes, at: int, repairs: list[str]) -> list[bytes]:
    """Return the contents of the MTrk chunks; repair a chunk length that does not end at another chunk."""
    tracks = []
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "big")
        end = at + 8 + length
        if end > len(data) or (end + 4 <= len(data) and not data[end : end + 4].isalnum() and kind == b"MTrk"):
            following = data.find(b"MTrk", at + 8)
            end = following if following > 0 else len(data)
            repairs.append("a track's length did not fit")
        if kind == b"MTrk":
            tracks.append(data[at + 8 : end])
        at = end
    return tracks


def parse_midi(data: bytes) -> list[Parsed]:
    """Parse a MIDI file: one score for each track of format 2, one score otherwise.

    Raises:
        DataError: neither reader can parse it; the text gives the reason.
    """
    _check_size(data)
    data, wrapped = unwrap_midi(data)
    layout = _read_layout(data)
    repairs = wrapped + layout.repairs
    if layout.form == 2 and len(layout.tracks) > 1:
        repairs.append(f"format 2: {len(layout.tracks)} patterns read as tunes of their own")
        return [_parse_tracks(layout, [t], repairs) for t in layout.tracks]
    return [_parse_tracks(layout, layout.tracks, repairs)]


def _parse_tracks(layout: _FileLayout, tracks: list[bytes], repairs: list[str]) -> Parsed:
    data = layout.bytes(tracks)
    score, more = _read_score(data)
    if layout.smpte:
        from symusic import Tempo

        score.tempos.clear()
        score.tempos.append(Tempo(0, _DEFAULT_QPM))
    return Parsed(score, tuple(dict.fromkeys([*repairs, *more])))


def _read_score(data: bytes) -> tuple[Score, list[str]]:
    """Try each reader in turn and return the first score with notes, else one without.

    Raises:
        DataError: every reader fails; the text is the first reader's.
    """
    from symusic import Score

    attempts: tuple[tuple[Callable[[], Score], list[str]], ...] = (
        (lambda: Score.from_midi(data), []),
        (lambda: Score.from_midi(data, sanitize_data=True), ["bytes over 127 cut to 7 bits"]),
        (lambda: _read_by_mido(data), ["read by mido, hanging notes closed"]),
    )
    empty, problems = None, []
    for attempt, repairs in attempts:
        try:
            score = attempt()
        except Exception as error:  # the parsers raise nearly anything; this runs in a child process only
            problems.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
            continue
        if score.note_num():
            return score, repairs
        empty = empty or score
    if empty is None:
        raise DataError(f"unreadable: {problems[0][:160]}")
    return empty, []


def _read_by_mido(data: bytes) -> Score:
    """Read a score by mido, which is slower but accepts data bytes out of range and notes without an end."""
    import mido
    from symusic import Note, Score, Tempo, TimeSignature, Track

    if len(data) > MAX_MIDO_BYTES:
        raise DataError("too large for the second reader")
    file = mido.MidiFile(file=io.BytesIO(data), clip=True)
    score = Score(file.ticks_per_beat)
    for source in file.tracks:
        now = 0
        rows: dict[bool, list[tuple[int, int, int, int]]] = {False: [], True: []}
        open_notes: dict[tuple[int, int], tuple[int, int]] = {}
        for message in source:
            now += message.time
            if message.type in ("note_on", "note_off"):
                key = (message.channel, message.note)
                if key in open_notes:
                    start, velocity = open_notes.pop(key)
                    rows[message.channel == 9].append((start, now - start, message.note, velocity))
                if message.type == "note_on" and message.velocity:
                    open_notes[key] = (now, message.velocity)
            elif message.type == "set_tempo" and message.tempo:
                score.tempos.append(Tempo(now, 6e7 / message.tempo))
            elif message.type == "time_signature":
                score.time_signatures.append(TimeSignature(now, message.numerator, message.denominator))
        for (channel, pitch), (start, velocity) in open_notes.items():
            rows[channel == 9].append((start, max(now - start, score.ticks_per_quarter), pitch, velocity))
        for is_drum, found in rows.items():
            if found:
                time, duration, pitch, velocity = np.array(found, np.int64).clip(0, 2**31 - 1).astype(np.int32).T.copy()
                track = Track(program=0, is_drum=is_drum)
                track.notes = Note.from_numpy(
                    time=time, duration=duration, pitch=pitch.astype(np.int8), velocity=velocity.astype(np.int8)
                )
                score.tracks.append(track)
    return score
