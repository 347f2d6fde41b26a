"""Choice of parts by names and numbers, and what becomes of their messages."""

from __future__ import annotations

import pytest
from track_bytes import NOTE, track_of

from musiclora.convert.errors import ConfigError
from musiclora.music.instruments import instrument_name
from musiclora.symbolic.formats.midi_events import read_all_events, read_messages
from musiclora.symbolic.rendering.part_choice import choose_parts, list_song_parts, select_messages


def parts_of(*raw: bytes):
    return list_song_parts(read_all_events(raw), raw, 480)


def test_a_program_that_changes_inside_a_track_splits_its_notes():
    raw = track_of(b"\x00\xc0\x49", NOTE, b"\x00\x90\x40\x64", b"\x60\xc0\x28", b"\x60\x80\x40\x00", NOTE)
    parts = parts_of(raw)
    assert [part.describe() for part in parts] == ["track 1 (Violin, Flute)"]
    for text, pitches in (("flute", [60, 64]), ("violin", [60]), ("track 1", [60, 64, 60])):
        (track,) = select_messages([raw], choose_parts(parts, text, None))
        messages = [message for _, message in read_messages(track)[0]]
        assert [m[1] for m in messages if m[0] == 0x90] == pitches
        assert sorted(m[1] for m in messages if m[0] == 0x80) == sorted(pitches)  # each note ends, after the change too
        assert sum(m[0] == 0xC0 for m in messages) == 2


def test_running_status_is_written_out():
    raw = track_of(b"\x00\x90\x3c\x64\x60\x3c\x00", b"\x00\xff\x05\x01a", b"\x00\x40\x64\x60\x40\x00")
    (track,) = select_messages([raw], choose_parts(parts_of(raw), None, None))
    messages = [message.hex() for _, message in read_messages(track)[0]]
    assert messages == ["903c64", "903c00", "ff050161", "904064", "904000"]
    assert read_all_events([raw])[0].rows.tolist() == read_all_events([track])[0].rows.tolist()


def test_two_channels_of_one_program_are_one_instrument_and_two_tracks():
    parts = parts_of(track_of(b"\x00\xc0\x21", NOTE), track_of(b"\x00\xc1\x21", NOTE.replace(b"\x90", b"\x91")))
    assert len(choose_parts(parts, "bass", None).heard_parts()) == 2
    assert [part.number for part in choose_parts(parts, "track2", None).heard_parts()] == [2]


def test_a_song_without_a_program_is_a_piano():
    assert [part.describe() for part in parts_of(track_of(NOTE))] == ["track 1 (Acoustic Grand Piano)"]
    assert len(choose_parts(parts_of(track_of(NOTE)), "0", None).heard) == 1


def named_track(name: str, program: int = 0, channel: int = 0, encoding: str = "utf-8") -> bytes:
    text = name.encode(encoding)
    note = bytes((0, 0x90 | channel, 60, 100, 96, 0x80 | channel, 60, 0))
    return track_of(bytes((0, 0xFF, 3, len(text))) + text, bytes((0, 0xC0 | channel, program)), note)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("lead, left", [1]),  # the name of a track holds a comma
        ("Lead,  LEFT", [1]),
        ("flöte", [2]),
        ("guitar", [3, 4]),
        ("electric guitar (jazz)", [3]),
        ("26,drums", [3, 5]),
        ("overdriven", [4]),
        ("track 1,track5", [1, 5]),
        ("#1, #5", [1, 5]),
        ("Track 2", [6]),  # a name goes before a number
        ("drum kit,", [5]),
        ("steel drums", [7]),
    ],
)
def test_a_list_names_instruments_drums_and_tracks(text, numbers):
    parts = parts_of(
        named_track("Lead, left", 0),
        named_track("Flöte", 73, 1, "latin-1"),
        named_track("", 26, 2),
        named_track("", 29, 3),
        named_track("", 0, 9),
        named_track("track 2", 40, 4),
        named_track("", 114, 5),
    )
    assert [part.number for part in choose_parts(parts, text, None).heard_parts()] == numbers
    left = choose_parts(parts, None, text).heard_parts()
    assert [part.number for part in left] == [n for n in range(1, 8) if n not in numbers]


def test_names_of_tracks_are_escaped_and_hundreds_are_counted():
    raw = [named_track(f"\x1b[2J{number}", number % 128, 0) for number in range(300)]
    with pytest.raises(ConfigError) as error:
        choose_parts(parts_of(*raw), "drums", None)
    assert "\x1b" not in str(error.value)
    assert "and 260 more" in str(error.value)
    assert len(str(error.value)) < 4000


def test_every_name_of_general_midi_chooses_its_program():
    for program in range(128):
        parts = parts_of(named_track("", program, 0), named_track("", (program + 64) % 128, 1))
        heard = choose_parts(parts, instrument_name(program), None).heard_parts()
        assert 1 in [part.number for part in heard]
