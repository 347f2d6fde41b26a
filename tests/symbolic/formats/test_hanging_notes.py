"""Notes without an end: each comes back 250 ms long, whatever else is in its track."""

from __future__ import annotations

import io

import numpy as np
import pytest
from mido import Message, MetaMessage, MidiFile, MidiTrack
from symusic import Score

from musiclora.errors import DataError
from musiclora.symbolic.formats.hanging_notes import HANGING_REPAIR
from musiclora.symbolic.formats.midi import MidiLayout, parse_midi


def on(pitch: int, wait: int = 0, channel: int = 0) -> Message:
    return Message("note_on", channel=channel, note=pitch, velocity=70, time=wait)


def off(pitch: int, wait: int = 0, channel: int = 0) -> Message:
    return Message("note_off", channel=channel, note=pitch, time=wait)


def file_of(*tracks: list[Message], ticks: int = 480) -> bytes:
    file = MidiFile(ticks_per_beat=ticks)
    file.tracks = [MidiTrack(track) for track in tracks]
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def notes_of(data: bytes) -> list[tuple[int, int, int, int, bool]]:
    (parsed,) = parse_midi(data)
    return sorted(
        (note.time, note.duration, note.pitch, track.program, track.is_drum)
        for track in parsed.score.tracks
        for note in track.notes
    )


def test_a_note_without_an_end_lasts_250_ms_at_its_tempo():
    tempo = [MetaMessage("set_tempo", tempo=1_000_000), MetaMessage("set_tempo", tempo=250_000, time=480)]
    data = file_of(tempo, [on(60), on(62), off(62, 480), on(64, 480), on(65), off(65, 10)])
    assert notes_of(data) == [
        (0, 120, 60, 0, False),
        (0, 480, 62, 0, False),
        (960, 10, 65, 0, False),
        (960, 480, 64, 0, False),
    ]
    (parsed,) = parse_midi(data)
    assert parsed.repairs == (HANGING_REPAIR,)
    assert len(Score.from_midi(data).tracks[0].notes) == 2


@pytest.mark.parametrize("microseconds", [0, 1, 0xFFFFFF], ids=["infinite", "too fast", "too slow"])
def test_an_impossible_tempo_does_not_count_for_a_note_without_an_end(microseconds):
    tempo = [MetaMessage("set_tempo", tempo=1_000_000), MetaMessage("set_tempo", tempo=microseconds, time=480)]
    data = file_of(tempo, [on(60, 960), on(62), off(62, 30)], ticks=32767)
    assert notes_of(data) == [(960, 30, 62, 0, False), (960, 8192, 60, 0, False)]
    (parsed,) = parse_midi(data)
    assert parsed.repairs == (HANGING_REPAIR,)


HANGING, WHOLE = b"\x00\x90\x3c\x40", b"\x00\x91\x3e\x40\x10\x81\x3e\x00"


@pytest.mark.parametrize(
    ("damage", "repairs"),
    [
        (b"\x00\x90\x40\xc0", "bytes over 127 cut to 7 bits"),
        (b"\x00\xf4\x40\x40", "damaged"),
        (b"\x00\xff\x01\x7fab", "damaged (cut off)"),
        (b"\x00\xf0\x7fab", "damaged (cut off)"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00", "damaged (a number of more than eight bytes)"),
    ],
    ids=["data over 127", "undefined status", "meta cut off", "sysex cut off", "long delta"],
)
def test_malformed_bytes_behind_a_hanging_note_leave_the_file_readable(damage, repairs):
    body = WHOLE + HANGING + damage
    data = MidiLayout(1, 480, [body], False, []).bytes([body])
    (parsed,) = parse_midi(data)
    assert (0, 16, 62, 0, False) in notes_of(data)
    assert any(repairs in text for text in parsed.repairs), parsed.repairs


@pytest.mark.parametrize(
    "body", [b"\x40", b"\x00\x40\x40", b"\x00\x90\x3c"], ids=["cut off", "no status", "half a note"]
)
def test_a_file_without_an_event_is_refused_in_one_line(body):
    with pytest.raises(DataError, match=r"^no event can be read: [\w ]+$"):
        parse_midi(MidiLayout(1, 480, [body], False, []).bytes([body]))


def test_ends_belong_to_the_notes_that_began_first():
    data = file_of([on(60), on(60, 100), on(60, 100), off(60, 100)])
    assert notes_of(data) == [(0, 300, 60, 0, False), (100, 240, 60, 0, False), (200, 240, 60, 0, False)]


def test_programs_and_drums_of_hanging_notes_stay():
    track = [Message("program_change", program=40), on(60), Message("program_change", program=9, time=10), on(61)]
    data = file_of(track, [on(36, 5, channel=9), off(38, 5, channel=9)], [on(70, channel=3), off(70, 20, channel=3)])
    assert notes_of(data) == [
        (0, 20, 70, 0, False),
        (0, 240, 60, 40, False),
        (5, 240, 36, 0, True),
        (10, 240, 61, 9, False),
    ]


def test_drums_that_never_end_all_come_back():
    data = file_of([on(36 + i % 3, 60, channel=9) for i in range(900)])
    found = notes_of(data)
    assert len(found) == 900
    assert {duration for _, duration, *_ in found} == {240}


def test_a_whole_file_is_read_as_before():
    data = file_of([on(60), off(60, 480), off(61, 5)], [on(62), off(62, 30)])
    (parsed,) = parse_midi(data)
    assert parsed.repairs == ()
    assert parsed.score == Score.from_midi(data)


@pytest.mark.parametrize("seed", range(5))
def test_every_begun_note_is_there_once(seed):
    rng = np.random.default_rng(seed)
    begun, track = [], []
    now = 0
    for _ in range(200):
        wait, pitch = int(rng.integers(0, 40)), int(rng.integers(50, 60))
        now += wait
        if rng.random() < 0.6:
            track.append(on(pitch, wait))
            begun.append((now, pitch))
        else:
            track.append(off(pitch, wait))
    assert sorted((time, pitch) for time, _, pitch, *_ in notes_of(file_of(track))) == sorted(begun)
