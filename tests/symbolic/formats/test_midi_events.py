"""MIDI events one by one: damaged tracks up to the damage, and files that would take much memory."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from symusic import Note, Score, Tempo, Track

from musiclora.convert.errors import DataError
from musiclora.symbolic.formats.midi import parse_midi
from musiclora.symbolic.formats.midi_events import pair_notes, read_events, score_of_events
from musiclora.symbolic.formats.sanitise import sanitise_score
from musiclora.symbolic.reading.read_folder import read_music

FOUND = Path(__file__).parents[2] / "golden" / "found"


def midi_file(*tracks: bytes, division: int = 480) -> bytes:
    head = struct.pack(">4sIHHH", b"MThd", 6, 1, len(tracks), division)
    return head + b"".join(struct.pack(">4sI", b"MTrk", len(track)) + track for track in tracks)


def test_a_file_that_is_cut_off_gives_its_whole_notes():
    (row,) = read_music(FOUND / "truncated.mid", workers=1).health

    assert (row.status, row.notes) == ("repaired", 25)
    assert "damaged (cut off): the 25 whole notes before it are used" in row.why


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "^the file is empty$"),
        (b"hello, I am a song", '^no MIDI file: it begins with "hello, I", and no MThd follows$'),
        (b"\x89PNG\x0d\x0a\x1a\x0a", r"it begins with b'\\x89PNG"),
        (b"\x00" * 40, r"it begins with b'\\x00"),
    ],
)
def test_a_file_that_is_no_midi_is_said_in_readable_words(data, words):
    with pytest.raises(DataError, match=words):
        parse_midi(data)


@pytest.mark.parametrize("name", ["waltz.mid", "prog20.mid", "pan_same.mid", "bend.mid", "highlow.mid"])
def test_event_by_event_is_what_the_fast_reader_gives(name):
    data = (FOUND / name).read_bytes()
    fast = Score.from_midi(data)
    at, chunks = 14, []
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "big")
        chunks.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    slow = score_of_events([read_events(chunk) for chunk in chunks], 480)

    def columns(score):
        return [
            [t.program, t.is_drum, *(a.tolist() for a in t.notes.numpy().values()), [b.value for b in t.pitch_bends]]
            for t in score.tracks
        ]

    assert columns(slow) == columns(fast)
    assert [(t.time, t.qpm) for t in slow.tempos] == [(t.time, t.qpm) for t in fast.tempos]
    assert [(t.time, t.numerator) for t in slow.time_signatures] == [
        (t.time, t.numerator) for t in fast.time_signatures
    ]


@pytest.mark.parametrize(
    ("data", "problem", "count"),
    [
        (b"\x00\x90\x3c\x40\x10\x3c\x00\x00\xff\x2f\x00rest", "", 2),
        (b"\x00\x90\x3c\x40\x10\x3c", "cut off", 1),
        (b"\x00\x90\x3c\x40\x81", "cut off", 1),
        (b"\x00\x90\x3c\x40\x00\xf0\x7f\x00", "cut off", 1),
        (b"\x00\x90\x3c\x40\x00\xff\x51", "cut off", 1),
        (b"\x00\x3c\x40", "data without a status byte", 0),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00", "a number of more than eight bytes", 0),
        (b"\x00\x90\x3c\x40\x00\xf8\x00\xf2\x01\x02\x00\x3c\x00", "", 2),
    ],
    ids=["whole", "in a note", "in a time", "in a system message", "in a tempo", "no status", "long time", "realtime"],
)
def test_a_track_is_read_up_to_its_damage(data, problem, count):
    events = read_events(data)

    assert (events.problem, len(events.rows)) == (problem, count)


def test_notes_end_where_they_are_struck_again_and_hanging_ones_with_the_track():
    events = read_events(b"\x00\x90\x3c\x40\x10\x3c\x50\x10\x3c\x00\x00\x3e\x40\x20\xb0\x07\x01")

    assert pair_notes(events, 10).tolist() == [[0, 0, 16, 60, 64], [0, 16, 16, 60, 80], [0, 32, 32, 62, 64]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (midi_file(b"\x00\x90\x3c\x40" + b"\x00\x3c\x40" * 600_000), "more than 500000 events"),
        (midi_file(b"\x00\x90\x3c\x40\x01\x3c\x00" + b"\x00\xb0\x07\x01" * 600_000), "more than 500000 events"),
        (midi_file(*[b"\x00\x90\x3c\x40\x01\x3c\x00"] * 2001), "more than 2000 tracks"),
    ],
    ids=["notes", "controls", "tracks"],
)
def test_what_would_take_much_memory_is_refused_before_it_is_parsed(data, words):
    with pytest.raises(DataError, match=words):
        parse_midi(data)


def test_channel_settings_survive_the_slow_reader():
    data = b"\x00\xc1\x28\x00\xb1\x07\x1e\x00\xe1\x7f\x7f\x00\x91\x3c\x40\x10\x91\x3c\x00"
    (track,) = score_of_events([read_events(data)], 480).tracks

    assert (track.program, track.is_drum) == (40, False)
    assert [(c.number, c.value) for c in track.controls] == [(7, 30)]
    assert [b.value for b in track.pitch_bends] == [8191]
    assert np.array_equal(track.notes.numpy()["duration"], [16])


@pytest.mark.parametrize("exponent", [8, 16, 255])
def test_a_metre_that_cannot_be_costs_a_damaged_file_the_metre_alone(exponent):
    metre = bytes([0, 0xFF, 0x58, 4, 4, exponent, 24, 8])
    data = midi_file(metre + bytes([0, 0x90, 60, 90, 96, 0x80, 60, 0, 0, 0x90]))
    clean = sanitise_score(parse_midi(data)[0].score)
    assert clean.notes == 1
    assert "impossible time signatures dropped: 1" in clean.repairs


def test_what_is_heard_stays_where_times_are_seconds():
    score = Score(480)
    score.tempos = [Tempo(0, 60.0), Tempo(240, 90.0), Tempo(480, 120.0)]
    score.tracks.append(Track(program=3))
    score.tracks[0].notes = [Note(0, 960, 64, 80), Note(0, 0, 60, 80), Note(960, 480, 62, 80)]
    before = score.copy()
    played, plain = sanitise_score(score, as_played=True), sanitise_score(score)
    assert played.repairs == ()
    assert [note.pitch for note in played.score.tracks[0].notes] == [64, 60, 62]
    assert [note.duration for note in played.score.tracks[0].notes] == [960, 0, 480]
    assert len(played.score.tempos) == 3
    assert played.seconds == pytest.approx(0.5 + 1 / 3 + 1.0)
    assert [note.pitch for note in plain.score.tracks[0].notes] == [60, 64, 62]
    assert len(plain.score.tempos) == 2
    assert score == before
