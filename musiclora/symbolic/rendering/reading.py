"""Reading of one song to render: its events as they stand, or its score repaired by the readers of training."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from musiclora.convert.errors import DataError
from musiclora.formats import ABC_SUFFIXES, SCORE_SUFFIXES
from musiclora.symbolic.formats.midi import MAX_MIDI_BYTES, MidiLayout, parse_midi, read_layout, unwrap_midi
from musiclora.symbolic.formats.midi_events import TrackEvents, has_notes, read_all_events
from musiclora.symbolic.formats.sanitise import sanitise_score
from musiclora.symbolic.rendering.part_choice import Choice, select_messages

if TYPE_CHECKING:
    from symusic import Score


@dataclass(frozen=True)
class SongEvents:
    """Events of a song, and remarks on how they were read.

    Attributes:
        tracks: events of each track.
        raw: the same as bytes of the MTrk chunks.
        division: ticks a quarter.
        use_tempos: False for a file in SMPTE time.
        remarks: repairs.
        time_division: the two bytes of the header that hold the division.
    """

    tracks: list[TrackEvents]
    raw: list[bytes]
    division: int
    use_tempos: bool
    remarks: list[str]
    time_division: bytes


def read_song_events(path: Path) -> SongEvents:
    """Read the events of the first song of a MIDI, ABC or MusicXML file.

    Raises:
        DataError: it cannot be read, or has no notes.
    """
    if path.suffix.lower() in (*ABC_SUFFIXES, *SCORE_SUFFIXES):
        score, remarks = _parse_notation(path)
        data = bytes(score.dumps_midi())
        layout = read_layout(data)
    else:
        data = _read_bytes(path)
        layout = read_layout(data)
        remarks = _first_of(len(layout.tracks), "patterns") if layout.form == 2 else []
    raw = layout.tracks[:1] if layout.form == 2 else layout.tracks
    tracks = read_all_events(raw)
    if not any(has_notes(events) for events in tracks):  # the readers that training uses repair more
        parsed = parse_midi(layout.bytes(layout.tracks))[0]
        if not parsed.score.note_num():
            raise DataError("it has no notes")
        data = bytes(parsed.score.dumps_midi())
        layout, remarks = read_layout(data), [*remarks, *parsed.repairs]
        raw = layout.tracks
        tracks = read_all_events(raw)
    problems = dict.fromkeys(f"a track is damaged ({e.problem}) and played up to there" for e in tracks if e.problem)
    division = unwrap_midi(data)[0][12:14] if layout.smpte else struct.pack(">H", layout.division)
    return SongEvents(tracks, raw, layout.division, not layout.smpte, [*remarks, *problems], division)


def read_song_score(path: Path) -> tuple[Score, list[str]]:
    """Read and repair the first song, by the readers that training uses.

    Returns:
        score in ticks, and the repairs.

    Raises:
        DataError: it cannot be read, or has no notes.
    """
    if path.suffix.lower() in (*ABC_SUFFIXES, *SCORE_SUFFIXES):
        score, remarks = _parse_notation(path)
    else:
        parsed = parse_midi(_read_bytes(path))
        score, remarks = parsed[0].score, [*_first_of(len(parsed), "patterns"), *parsed[0].repairs]
    clean = sanitise_score(score)
    return clean.score, [*remarks, *clean.repairs]


def read_heard_score(song: SongEvents, choice: Choice) -> tuple[Score, list[str]]:
    """Read and repair the parts of a song that are heard, with the bars of the whole song.

    Returns:
        score in ticks, and the repairs.

    Raises:
        DataError: it cannot be read.
    """
    scores = []
    for muted in (False, True):
        tracks = select_messages(song.raw, choice, muted=muted)
        if any(has_notes(events) for events in read_all_events(tracks)):
            scores.append(parse_midi(MidiLayout(1, song.division, tracks, False, []).bytes(tracks))[0].score)
    heard = sum(len(track.notes) > 0 for track in scores[0].tracks)
    for muted_score in scores[1:]:  # repairs close long silences, and must find those of the whole song
        scores[0].tracks.extend(muted_score.tracks)
    clean = sanitise_score(scores[0])
    clean.score.tracks = clean.score.tracks[:heard]
    return clean.score, [*song.remarks, *clean.repairs]


def _parse_notation(path: Path) -> tuple[Score, list[str]]:
    """Read MusicXML, or the first tune of an ABC file."""
    from musiclora.symbolic.formats.abc import parse_tune, read_tunes
    from musiclora.symbolic.formats.musicxml import read_musicxml

    if path.suffix.lower() in SCORE_SUFFIXES:
        found, notes = read_musicxml(path)
        return found, list(notes)
    file = read_tunes(path)
    score, repairs = parse_tune(file.tunes[0], file.shared)
    return score, [*_first_of(len(file.tunes), "tunes"), *repairs]


def _first_of(count: int, what: str) -> list[str]:
    return [f"the first of its {count} {what} is taken"] if count > 1 else []


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_MIDI_BYTES + 1)
