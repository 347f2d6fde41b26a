"""Tolerant MIDI reader: unwraps containers, repairs headers and chunk lengths, then reads the tracks."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from musiclora.convert.errors import DataError, show_value
from musiclora.symbolic.formats.hanging_notes import HANGING_REPAIR, close_hanging_notes
from musiclora.symbolic.formats.midi_events import read_all_events, score_of_events
from musiclora.symbolic.formats.programs import describe_doubtful_drums, find_programs

if TYPE_CHECKING:
    from symusic import Score

MAX_MIDI_BYTES = 16 * 2**20
MAX_TRACKS = 2000
UNCOUNTED_BYTES = 2**19  # a smaller file cannot hold too many events
_DEFAULT_QPM = 120.0


@dataclass(frozen=True)
class Parsed:
    """One score of a file, the repairs that reading it needed, and remarks on what the file does not say."""

    score: Score
    repairs: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def unwrap_midi(data: bytes) -> tuple[bytes, list[str]]:
    """Extract MIDI from gzip, zip, RIFF RMID, MacBinary and similar containers.

    Returns:
        the bytes from `MThd` on, and the repairs.

    Raises:
        DataError: there is no byte, or no `MThd`.
    """
    if not data:
        raise DataError("the file is empty")
    repairs = []
    if data[:2] == b"\x1f\x8b":
        data = _unpack_gzip(data)
        repairs.append("unpacked from gzip")
    elif data[:4] == b"PK\x03\x04":
        data = _unpack_zip(data)
        repairs.append("unpacked from zip")
    at = data.find(b"MThd", 0, 4096)  # MacBinary puts 128 bytes before it, RMID 20, a byte order mark 3
    if at < 0:
        raise DataError(f"no MIDI file: it begins with {_show_beginning(data)}, and no MThd follows")
    if at > 0:
        repairs.append("RIFF wrapper removed" if data[:4] == b"RIFF" else f"{at} bytes before the header removed")
    return data[at:], repairs


def _show_beginning(data: bytes) -> str:
    """Show the first eight bytes as text where they are, else as bytes."""
    return show_value(data[:8].decode("ascii")) if data[:8].isascii() and b"\x00" not in data[:8] else f"{data[:8]!r}"


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
    except (zipfile.BadZipFile, lzma.LZMAError, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        raise DataError(f"damaged or locked zip, or one of an unknown compression ({error})") from error


def _check_size(data: bytes) -> bytes:
    if len(data) > MAX_MIDI_BYTES:
        raise DataError(f"larger than {MAX_MIDI_BYTES >> 20} MB when unpacked")
    return data


@dataclass(frozen=True)
class MidiLayout:
    """Header values and raw tracks of a file.

    Attributes:
        form: MIDI format, 0 to 2.
        division: ticks in a quarter.
        tracks: content of each MTrk chunk.
        smpte: True where the header counts in SMPTE time.
        repairs: repairs of container, header and chunks.
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


def read_layout(data: bytes) -> MidiLayout:
    """Unwrap a file and read its header and the extents of its tracks.

    Raises:
        DataError: it is no MIDI file, too large, or has no track or no time division.
    """
    data, repairs = unwrap_midi(_check_size(data))
    if len(data) < 14:
        raise DataError(f"the header is cut off after {len(data)} bytes")
    length, form, declared, division = struct.unpack(">IHHH", data[4:14])
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
    return MidiLayout(form, division, tracks, smpte, repairs)


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
            if len(tracks) > MAX_TRACKS:
                raise DataError(f"more than {MAX_TRACKS} tracks")
        at = end
    return tracks


def parse_midi(data: bytes) -> list[Parsed]:
    """Parse a MIDI file: one score for each track of format 2, one score otherwise.

    Raises:
        DataError: neither reader can parse it; the text gives the reason.
    """
    layout = read_layout(data)
    repairs = layout.repairs
    if layout.form == 2 and len(layout.tracks) > 1:
        repairs.append(f"format 2: {len(layout.tracks)} patterns read as tunes of their own")
        return [_parse_tracks(layout, [t], repairs) for t in layout.tracks]
    return [_parse_tracks(layout, layout.tracks, repairs)]


def _parse_tracks(layout: MidiLayout, tracks: list[bytes], repairs: list[str]) -> Parsed:
    score, more = _read_score(layout, tracks)
    programs = find_programs(tracks, score)
    if programs.tracks is not tracks:
        score, more = _read_score(layout, programs.tracks)
    if layout.smpte:
        from symusic import Tempo

        score.tempos.clear()
        score.tempos.append(Tempo(0, _DEFAULT_QPM))
    remarks = (*programs.remarks, *describe_doubtful_drums(score))
    return Parsed(score, tuple(dict.fromkeys([*repairs, *more])), remarks)


def _read_score(layout: MidiLayout, tracks: list[bytes]) -> tuple[Score, list[str]]:
    """Read a score by symusic, and event by event where it fails or finds no note.

    Raises:
        DataError: too many events, or none that can be read.
    """
    if sum(map(len, tracks)) > UNCOUNTED_BYTES:
        read_all_events(tracks)  # counts them; the parser would take the memory first
    for sanitize, repairs in ((False, []), (True, ["bytes over 127 cut to 7 bits"])):
        read = partial(_read_by_symusic, layout, sanitize)
        with suppress(RuntimeError):  # symusic's only error, of bytes that are no events
            score = read(tracks)
            whole = close_hanging_notes(score, tracks, read)
            if whole.note_num():
                return whole, repairs if whole is score else [*repairs, HANGING_REPAIR]
    return _read_whole_events(layout, tracks)


def _read_by_symusic(layout: MidiLayout, sanitize: bool, tracks: list[bytes]) -> Score:
    from symusic import Score

    return Score.from_midi(layout.bytes(tracks), sanitize_data=sanitize)


def _read_whole_events(layout: MidiLayout, tracks: list[bytes]) -> tuple[Score, list[str]]:
    """Read each track up to its end or its first damaged event, and close hanging notes."""
    events = read_all_events(tracks)
    problems = list(dict.fromkeys(e.problem for e in events if e.problem))
    if problems and not any(len(e.rows) for e in events):
        raise DataError(f"no event can be read: {problems[0]}")
    score = score_of_events(events, layout.division)
    repairs = [text for e in events for text in e.repairs]
    if problems:
        repairs.append(f"damaged ({problems[0]}): the {score.note_num()} whole notes before it are used")
    else:
        repairs.append("hanging notes closed")
    return score, repairs
