"""Parts of a song: each sounds with its own program, volume, pan and bends, in as many passes as that needs."""

from __future__ import annotations

import numpy as np
import pytest
from render_helpers import ENGINES, FONT, FOUND, loudest_pitch

from musiclora.errors import DataError
from musiclora.symbolic.formats.midi_events import TrackEvents, read_events
from musiclora.symbolic.rendering.missing import missing_remarks, soundfont_presets
from musiclora.symbolic.rendering.parts import TICKS_PER_SECOND, arrange_parts, pass_midi, split_passes
from musiclora.symbolic.rendering.reading import read_song_events
from musiclora.symbolic.rendering.worker import _play, play_song


def arrange(name: str, max_seconds: float = 900):
    song = read_song_events(FOUND / name)
    return arrange_parts(song.tracks, song.division, max_seconds, song.use_tempos)


@pytest.fixture(params=ENGINES)
def play(request):
    return lambda name: play_song(arrange(name), request.param, FONT)


def part_of(audio: np.ndarray, start: float, end: float) -> np.ndarray:
    return audio[int(start * 44100) : int(end * 44100)]


def decibels(audio: np.ndarray) -> np.ndarray:
    """Return the level of each channel in dB of full scale."""
    return 20 * np.log10(np.sqrt(np.square(audio, dtype=np.float64).mean(0)) + 1e-9)


def test_two_tracks_of_one_program_keep_their_own_pans(play):
    audio = play("pan_same.mid")
    for beat in range(4):  # low notes at the left, high ones at the right
        left, right = decibels(part_of(audio, beat / 2 + 0.05, beat / 2 + 0.45))
        assert (left - right) * (1 if beat % 2 == 0 else -1) > 10


def test_two_tracks_of_one_program_keep_their_own_volumes(play):
    audio = play("v1.mid")
    loud, soft = decibels(part_of(audio, 0, 0.9)).max(), decibels(part_of(audio, 4, 4.9)).max()
    # volume 127 against 30 is 40 log10(127/30) = 25 dB; an octave higher sounds a little softer or louder
    assert loud - soft == pytest.approx(25, abs=4)


def test_a_pitch_bend_is_heard(play):
    audio = play("bend.mid")[:, 0]
    assert loudest_pitch(part_of(audio, 0.3, 0.9)) == pytest.approx(69, abs=0.3)
    assert loudest_pitch(part_of(audio, 1.3, 1.9)) == pytest.approx(71, abs=0.3)


def test_a_long_silence_is_kept(play):
    size = np.abs(play("gap.mid")).max(1)
    assert np.flatnonzero(size > 0.05)[0] / 44100 == pytest.approx(0, abs=0.1)
    assert (5 + np.flatnonzero(size[5 * 44100 :] > 0.05)[0] / 44100) == pytest.approx(10.5, abs=0.1)


def test_a_song_at_volume_ten_is_heard(play):
    assert np.abs(play("v3.mid")).max() == pytest.approx(0.89, abs=0.01)


def test_twenty_programs_sound_each_at_its_time(play):
    audio = play("prog20.mid")
    levels = [decibels(part_of(audio, beat / 2 + 0.02, beat / 2 + 0.45)).max() for beat in range(20)]
    assert min(levels) > -35


def messages_of(data: bytes) -> list[tuple[int, int, int, int]]:
    (events,) = (track for track in [read_events(data[22:])])
    assert not events.problem
    return [tuple(row) for row in events.rows.tolist()]


def test_every_part_has_a_channel_of_its_own_and_its_own_program():
    passes = split_passes(arrange("prog20.mid").parts)
    assert [len(parts) for parts in passes] == [15, 5]
    programs = set()
    for parts in passes:
        rows = messages_of(pass_midi(parts, 0))
        sounding = {status & 15 for _, status, _, _ in rows if status & 0xF0 == 0x90}
        assert len(sounding) == len(parts)
        assert 9 not in sounding
        found = {(status & 15, first) for _, status, first, _ in rows if status & 0xF0 == 0xC0}
        assert len(found) == len(parts)  # no channel changes its program
        programs |= {program for _, program in found}
    assert len(programs) == 20


def track_bytes(*messages: bytes) -> TrackEvents:
    return read_events(b"".join(messages) + b"\x00\xff\x2f\x00")


NOTE = b"\x00\x90\x3c\x64\x83\x60\x80\x3c\x00"


def settings_of(*tracks: TrackEvents) -> list[set[tuple[int, int, int]]]:
    parts = arrange_parts(tracks, 480, 900, True).parts
    return [{(s, a, b) for _, s, a, b in part.settings.tolist() if a not in (7, 11)} for part in parts]


def test_a_track_that_only_sets_up_a_channel_counts_for_those_that_play_on_it():
    setup = track_bytes(b"\x00\xc0\x28", b"\x00\xb0\x0a\x10", b"\x00\xc1\x05")
    assert settings_of(setup, track_bytes(NOTE)) == [{(0xC0, 40, 0), (0xB0, 10, 16)}]


def test_tracks_without_a_program_share_their_channel_and_others_do_not():
    right = track_bytes(b"\x00\xc0\x28", b"\x00\xb0\x0a\x10", NOTE)
    left = track_bytes(NOTE)
    other = track_bytes(b"\x00\xc0\x05", NOTE)
    found = settings_of(right, left, other)
    assert found[0] == {(0xC0, 40, 0), (0xB0, 10, 16)}
    assert (0xC0, 40, 0) in found[1]
    assert found[2] == {(0xC0, 5, 0)}


def test_bend_ranges_banks_and_pedals_reach_the_synthesiser_and_channel_modes_do_not():
    rows = [(101, 0), (100, 0), (6, 12), (0, 8), (64, 127), (126, 1)]
    track = track_bytes(*[bytes((0, 0xB0, *row)) for row in rows], NOTE)
    (part,) = arrange_parts([track], 480, 900, True).parts
    assert [(a, b) for _, _, a, b in part.settings.tolist()][2:] == rows[:-1]


def test_more_notes_at_a_time_than_voices_take_more_passes():
    chord = b"".join(bytes((0, 0x90, 40 + i, 100)) for i in range(20))
    ends = b"".join(bytes((1, 0x80, 40 + i, 0)) for i in range(20))
    parts = arrange_parts([track_bytes(chord, ends)] * 3, 480, 900, True).parts
    assert [len(found) for found in split_passes(parts)] == [1, 1, 1]


def test_what_is_not_played_is_said():
    late = track_bytes(NOTE, b"\x87\xa6\x40\x90\x40\x64\x83\x60\x80\x40\x00")  # 125 s later
    found = arrange_parts([late], 480, 60, True)
    assert found.remarks == ["ends after 1 of 2.1 minutes"]
    assert len(found.parts[0].notes) == 1
    many = arrange_parts([track_bytes(NOTE)] * 241, 480, 60, True)
    assert many.remarks == ["1 of 241 parts are left out; at most 240 are played"]
    long = arrange_parts([track_bytes(b"\x00\x90\x3c\x64\x81\xff\x00\x80\x3c\x00")], 480, 900, True)
    assert long.end == 30 * TICKS_PER_SECOND


def test_tempos_give_the_times_and_smpte_files_have_none():
    slow = track_bytes(b"\x00\xff\x51\x03\x0f\x42\x40", NOTE, b"\x00\xff\x51\x03\x03\xd0\x90", NOTE)  # 60, 240
    ends = [arrange_parts([slow], 480, 900, use).parts[0].notes[:, 1].tolist() for use in (True, False)]
    assert ends == [[960, 1200], [480, 960]]


def test_volumes_that_are_all_zero_are_refused():
    with pytest.raises(DataError, match="every channel has volume 0"):
        arrange_parts([track_bytes(b"\x00\xb0\x07\x00", NOTE)], 480, 900, True)


def test_a_song_too_soft_to_hear_is_an_error_of_the_song():
    soft = track_bytes(b"\x00\x90\x3c\x01\x83\x60\x80\x3c\x00")
    with pytest.raises(DataError, match="makes no sound: its notes are too soft"):
        play_song(arrange_parts([soft], 480, 900, True), "midirenderer", FONT)


def test_a_file_that_only_the_tolerant_reader_understands_is_played():
    song = read_song_events(FOUND.parents[1] / "data" / "nasty_midi" / "zz_segv059_2.mid")
    part, unended = arrange_parts(song.tracks, song.division, 900, song.use_tempos).parts
    assert (len(part.notes), len(unended.notes)) == (16, 3)
    assert {"bytes over 127 cut to 7 bits", "notes without an end made 250 ms long"} <= set(song.remarks)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_single_part_that_the_soundfont_cannot_play_is_named(tmp_path, engine):
    # Beside others that are heard it was silent, or played by another instrument, without a word.
    programs = {b"flute": (73, 72), b"violin": (40, 67)}
    tracks = [
        track_bytes(bytes((0, 0xC0, number)), bytes((0, 0x90, pitch, 100, 0x83, 0x60, 0x80, pitch, 0)))
        for number, pitch in programs.values()
    ]
    tracks.append(track_bytes(bytes((0, 0xC0, 0, 0, 0x90, 60, 1, 0x83, 0x60, 0x80, 60, 0))))  # too soft to be heard
    found = arrange_parts(tracks, 480, 900, True)
    said = missing_remarks(found.parts, found.end, FONT, lambda midi: _play(engine, FONT, midi))
    if engine == "midirenderer":  # fluidsynth gives floating point, in which the softest note is heard
        assert said == [
            "1 of 3 parts makes no sound (Acoustic Grand Piano): the soundfont lacks the instrument or these notes "
            "of it, or they are too soft"
        ]
    content = bytearray(FONT.read_bytes())
    assert (0, 73) in soundfont_presets(FONT)
    at = content.index(b"phdr") + 8
    while tuple(content[at + 20 : at + 24]) != (73, 0, 0, 0):
        at += 38
    content[at + 22] = 99  # the flute moves to a bank that the song does not choose
    (tmp_path / "font.sf2").write_bytes(content)
    font = tmp_path / "font.sf2"
    said = missing_remarks(found.parts[:2], found.end, font, lambda midi: _play(engine, font, midi))
    assert said == ["the soundfont lacks Flute: another instrument of it is heard"]


def test_a_file_that_is_no_soundfont_has_no_presets(tmp_path):
    for content in (
        b"",
        b"RIFF",
        b"RIFF0000sfbkLIST",
        b"RIFF0000sfbkLIST\xff\xff\xff\xffpdta",
        FONT.read_bytes()[:900],
    ):
        (tmp_path / "bad.sf2").write_bytes(content)
        assert soundfont_presets(tmp_path / "bad.sf2") == set()
