"""Programs of parts whose own track has none: the synthesiser gets the program that the reader of training finds."""

from __future__ import annotations

import random

import pytest
from track_bytes import track_of

from musiclora.symbolic.formats.midi import MidiLayout, parse_midi
from musiclora.symbolic.formats.midi_events import read_all_events, read_events
from musiclora.symbolic.rendering.parts import TICKS_PER_SECOND, arrange_parts, pass_midi, split_passes

DRUMS = -1
DIVISION = TICKS_PER_SECOND // 2  # at 120 quarters a minute a tick of the file is one of the synthesiser


def note(pitch: int, channel: int = 0) -> bytes:
    return bytes((0, 0x90 | channel, pitch, 100, 40, 0x80 | channel, pitch, 0))


def program(number: int, channel: int = 0, wait: int = 0) -> bytes:
    return bytes((wait, 0xC0 | channel, number))


def port(number: int) -> bytes:
    return bytes((0, 0xFF, 0x21, 1, number))


def heard(*tracks: bytes) -> list[tuple[int, int, int]]:
    """List tick, pitch and program in force of each note in the events for the synthesiser."""
    arranged = arrange_parts(read_all_events(tracks), DIVISION, 900, use_tempos=False)
    found = []
    for parts in split_passes(arranged.parts):
        programs: dict[int, int] = {9: DRUMS}
        for tick, status, first, second in read_events(pass_midi(parts, arranged.end)[22:]).rows.tolist():
            channel = status & 0x0F
            if status & 0xF0 == 0xC0 and channel != 9:
                programs[channel] = first
            elif status & 0xF0 == 0x90 and second:
                found.append((tick, first, programs.get(channel, 0)))
    return sorted(found)


def learnt(*tracks: bytes) -> list[tuple[int, int, int]]:
    """List tick, pitch and program of each note as training reads them."""
    (parsed,) = parse_midi(MidiLayout(1, DIVISION, [*tracks], False, []).bytes([*tracks]))
    return sorted(
        (note.time, note.pitch, DRUMS if track.is_drum else track.program)
        for track in parsed.score.tracks
        for note in track.notes
    )


FIRST, SECOND, THIRD = track_of(program(40), note(60)), track_of(note(62)), track_of(program(5), note(64))
SETUP = track_of(program(9))
CASES = {
    "the first of two tracks": ([FIRST, SECOND], {60: 40, 62: 40}),
    "the second of two tracks": ([SECOND, FIRST], {60: 40, 62: 40}),
    "the track before rather than the one after": ([FIRST, SECOND, THIRD], {60: 40, 62: 40, 64: 5}),
    "a track without notes rather than a part": ([FIRST, SECOND, SETUP], {60: 40, 62: 9}),
    "no track of another port": ([FIRST, track_of(port(1), note(62))], {60: 40, 62: 0}),
    "a track without notes of its own port": ([SETUP, track_of(port(1), note(64)), SECOND], {62: 9, 64: 0}),
    "a change in the middle": (
        [track_of(program(40), note(60), program(41, wait=20)), track_of(note(61), note(62), note(63))],
        {60: 40, 61: 40, 62: 40, 63: 41},
    ),
}


@pytest.mark.parametrize(("tracks", "programs"), CASES.values(), ids=CASES)
def test_a_track_without_a_program_takes_it_from(tracks, programs):
    assert {pitch: number for _, pitch, number in heard(*tracks)} == programs
    assert heard(*tracks) == learnt(*tracks)


@pytest.mark.parametrize("seed", range(20))
def test_every_note_sounds_with_the_program_that_training_reads(seed):
    draw = random.Random(seed)
    pitch, songs = 20, []
    for _ in range(10):
        tracks = []
        for _ in range(draw.randrange(1, 5)):
            pitch = 20 + (pitch - 19) % 100
            parts = [port(draw.randrange(2))] if draw.random() < 0.3 else []
            for _ in range(draw.randrange(5)):
                channel = draw.choice([0, 1, 9])
                pitch = 20 + (pitch - 19) % 100
                changes = draw.random() < 0.35
                wait = draw.choice([0, 40])
                parts.append(program(draw.randrange(1, 100), channel, wait) if changes else note(pitch, channel))
            tracks.append(track_of(*parts))
        songs.append([*tracks, track_of(note(10))])
    for tracks in songs:
        assert heard(*tracks) == learnt(*tracks)
