"""Scores as sequencers write them: channels, programs, drums, banks; what they do not say is said."""

from __future__ import annotations

import io

import mido
import pytest
from bands import BANDS, instruments
from symusic import Note, Score, Track

from musiclora.symbolic.formats.midi import Parsed, parse_midi
from musiclora.symbolic.formats.programs import describe_doubtful_drums
from musiclora.symbolic.reading.read_folder import read_music
from musiclora.symbolic.reading.worker import Outcome, ReadTask, examine_file

REMI = BANDS["remi"]()


def note(at, channel, pitch=60, length=480):
    on = mido.Message("note_on", note=pitch, velocity=80, channel=channel)
    return [(at, on), (at + length, mido.Message("note_off", note=pitch, channel=channel))]


def line(count):
    """Return quarter notes that rise by semitones on channel 1."""
    return [event for i in range(count) for event in note(480 * i, 0, 60 + i)]


def program(number, channel, at=0):
    return [(at, mido.Message("program_change", program=number, channel=channel))]


def control(number, value, channel, at=0):
    return [(at, mido.Message("control_change", control=number, value=value, channel=channel))]


def meta(kind, **values):
    return [(0, mido.MetaMessage(kind, **values))]


def midi(*tracks, form=1) -> bytes:
    """Build a file of tracks, each a list of tick and message."""
    file, out = mido.MidiFile(type=form, ticks_per_beat=480), io.BytesIO()
    for events in tracks:
        track, now = mido.MidiTrack(), 0
        for at, message in sorted(events, key=lambda event: event[0]):
            track.append(message.copy(time=at - now))
            now = at
        file.tracks.append(track)
    file.save(file=out)
    return out.getvalue()


def parse(*tracks, form=1) -> Parsed:
    (parsed,) = parse_midi(midi(*tracks, form=form))
    return parsed


def examine(tmp_path, data: bytes) -> tuple[Outcome, str]:
    """Read a file as the child process does; return the outcome and what the health table says."""
    (tmp_path / "song.mid").write_bytes(data)
    (outcome,) = examine_file(ReadTask(path=str(tmp_path / "song.mid")), REMI, True)
    assert not outcome.error
    return outcome, "; ".join([*outcome.repairs, *outcome.remarks])


def test_two_channels_with_one_program_stay_two_tracks_and_are_merged_and_counted_in_tokens(tmp_path):
    data = midi(
        meta("track_name", name="left") + program(25, 0) + note(0, 0, 60),
        meta("track_name", name="right") + program(25, 1) + note(0, 1, 64),
        program(33, 2) + note(0, 2, 40),
    )
    song, why = examine(tmp_path, data)
    assert [(t.name, t.program) for t in song.score.tracks] == [("left", 25), ("right", 25), ("", 33)]
    assert why == "3 tracks merged into 2"
    assert (song.kept.tracks, song.kept.tracks_kept, song.kept.instruments, song.kept.instruments_kept) == (3, 2, 2, 2)
    assert song.kept.kept == song.kept.notes == 3


@pytest.mark.parametrize("name", ["Drums", "PERCUSSION 2", "Drum kit", "hi-hat", "Schlagzeug"])
def test_a_track_named_as_drums_on_another_channel_is_said(tmp_path, name):
    named = meta("track_name", name=name)
    song, why = examine(tmp_path, midi(named + program(0, 3) + note(0, 3, 36), program(1, 0) + note(0, 0)))
    assert why == f'looks like drums but is not on channel 10, so its notes are read as pitches: "{name}"'
    assert song.notes == 2
    assert not any(track.is_drum for track in song.score.tracks)


@pytest.mark.slow
def test_the_health_table_has_the_remark_and_keeps_the_song(tmp_path):
    (tmp_path / "song.mid").write_bytes(midi(meta("track_name", name="Drums") + note(0, 3, 36)))
    (row,) = read_music(tmp_path, workers=1).health
    assert row.status == "kept"
    assert row.why.startswith("looks like drums but is not on channel 10")


def test_drums_on_channel_10_steel_drums_and_a_drummer_need_no_remark(tmp_path):
    data = midi(
        meta("track_name", name="Drums") + program(8, 9) + note(0, 9, 36),
        meta("track_name", name="Steel Drums") + program(114, 0) + note(0, 0),
        meta("track_name", name="Taiko drum") + program(116, 1) + note(0, 1),
        meta("track_name", name="Drummer boy") + program(40, 2) + note(0, 2),
    )
    song, why = examine(tmp_path, data)
    assert why == ""
    assert [(t.is_drum, t.program) for t in song.score.tracks] == [(True, 8), (False, 114), (False, 116), (False, 40)]


@pytest.mark.parametrize("bank", [120, 127])
def test_a_bank_of_drums_on_another_channel_is_said(bank):
    found = parse(meta("track_name", name="kit 2") + control(0, bank, 10) + program(0, 10) + note(0, 10, 36))
    assert found.remarks == ('looks like drums but is not on channel 10, so its notes are read as pitches: "kit 2"',)


def test_names_from_a_file_are_made_printable():
    track = Track(program=0, name="drums \x1b[31m" + "x" * 500)
    track.notes = [Note(0, 10, 60, 80)]
    score = Score(480)
    score.tracks = [track]
    (text,) = describe_doubtful_drums(score)
    assert "\x1b" not in text
    assert len(text) < 200


def test_notes_after_a_program_change_get_their_own_program(tmp_path):
    changes = program(25, 0) + program(40, 0, at=960) + program(25, 0, at=1920)
    song, _ = examine(tmp_path, midi(changes + line(6)))
    expected = [(25, 0, 60), (25, 1, 61), (25, 4, 64), (25, 5, 65), (40, 2, 62), (40, 3, 63)]
    assert instruments(song.score) == expected
    assert instruments(REMI.decode(song.tokens)) == expected
    assert (song.kept.instruments, song.kept.instruments_kept) == (2, 2)


def test_a_damaged_track_is_split_at_program_changes_too():
    data = midi(program(25, 0) + note(0, 0, 60) + program(40, 0, at=960) + note(960, 0, 62) + note(1920, 0, 64))
    found = parse_midi(data[:-10])[0]
    assert any(text.startswith("damaged") for text in found.repairs)
    assert instruments(found.score) == [(25, 0, 60), (40, 2, 62)]


@pytest.mark.parametrize("setup", [0, 1], ids=["before", "behind"])
def test_programs_in_a_track_without_notes_are_those_of_their_channels(setup):
    parts = [note(0, 0, 60) + note(1920, 0, 62), note(0, 1, 40), note(0, 9, 36)]
    programs = program(25, 0) + program(33, 1) + program(48, 0, at=960) + program(8, 9)
    parts.insert(3 * setup, programs)
    found = parse(*parts)
    assert instruments(found.score) == [(-1, 0, 36), (25, 0, 60), (33, 0, 40), (48, 4, 62)]
    assert (found.repairs, found.remarks) == ((), ())


def test_a_second_track_of_a_channel_has_its_program_and_one_of_its_own_keeps_it():
    found = parse(program(25, 0) + note(0, 0, 60), note(0, 0, 64), program(40, 0) + note(0, 0, 67))
    assert instruments(found.score) == [(25, 0, 60), (25, 0, 64), (40, 0, 67)]


def test_tracks_of_two_ports_do_not_share_programs():
    ports = [meta("midi_port", port=number) for number in (0, 1)]
    found = parse(ports[0] + program(25, 0) + note(0, 0, 60), ports[1] + note(0, 0, 64))
    assert instruments(found.score) == [(0, 0, 64), (25, 0, 60)]


def test_names_pedals_tempos_and_running_status_survive_programs_of_another_track():
    file = midi(
        meta("set_tempo", tempo=600_000) + program(25, 0),
        meta("track_name", name="lead")
        + control(64, 127, 0)
        + note(0, 0, 60)
        + note(480, 0, 62)
        + control(64, 0, 0, 960),
    )
    plain = parse_midi(file.replace(b"\xc0\x19", b"\xc0\x00"))[0].score
    given = parse_midi(file)[0].score
    assert [(t.name, t.program) for t in given.tracks] == [("lead", 25)]
    for kind in ("notes", "pedals", "controls"):
        assert list(getattr(given.tracks[0], kind)) == list(getattr(plain.tracks[0], kind))
    assert [t.qpm for t in given.tempos] == [t.qpm for t in plain.tempos] == [100.0]
    # notes without a status byte of their own
    running = bytes.fromhex("00903c50 833c3c00 00 3e50 833c3e00 00ff2f00".replace(" ", ""))
    setup = bytes.fromhex("00c01900ff2f00")
    head = bytes.fromhex("4d546864 00000006 0001 0002 01e0".replace(" ", ""))
    chunks = b"".join(b"MTrk" + len(t).to_bytes(4, "big") + t for t in (setup, running))
    assert instruments(parse_midi(head + chunks)[0].score) == [(25, 0, 60), (25, 0.925, 62)]


def test_no_program_at_all_is_piano_and_said_where_there_are_several_tracks(tmp_path):
    song, why = examine(tmp_path, midi(note(0, 0, 60), note(0, 1, 40)))
    assert {t.program for t in song.score.tracks} == {0}
    assert why == "no program change: its 2 tracks are read as piano; 2 tracks merged into 1"
    for named in (midi(program(0, 0) + note(0, 0, 60), note(0, 1, 40)), midi(note(0, 0, 60))):
        assert parse_midi(named)[0].remarks == ()


def test_forty_instruments_are_kept(tmp_path):
    data = midi(*(program(i, i % 9) + note(0, i % 9, 40 + i) for i in range(40)))
    song, why = examine(tmp_path, data)
    assert [t.program for t in song.score.tracks] == list(range(40))
    assert (song.kept.instruments_kept, song.kept.tracks_kept, why) == (40, 40, "")
    assert instruments(REMI.decode(song.tokens)) == [(i, 0, 40 + i) for i in range(40)]


def test_a_song_over_an_hour_is_kept_whole(tmp_path):
    bars = 2000  # 66 minutes at 120
    notes = [event for bar in range(bars) for event in note(1920 * bar, 0, 60 + bar % 12)]
    song, why = examine(tmp_path, midi(program(25, 0) + notes, program(0, 9) + note(1920 * (bars - 1), 9, 36)))
    assert song.seconds > 3600
    assert (song.kept.kept, song.kept.notes, why) == (bars + 1, bars + 1, "")
    assert REMI.decode(song.tokens).note_num() == bars + 1


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_song_of_few_notes_is_kept(tmp_path, count):
    song, why = examine(tmp_path, midi(program(25, 0) + line(count)))
    assert (song.notes, song.decoded_notes, why) == (count, count, "")


def test_a_file_of_type_0_with_16_channels_in_one_track(tmp_path):
    channels = range(16)
    events = [event for c in channels for event in program(5 + c, c) + note(10 * c, c, 50 + c)]
    song, _ = examine(tmp_path, midi(events, form=0))
    expected = sorted((-1 if c == 9 else 5 + c, c / 48, 50 + c) for c in channels)
    assert instruments(song.score) == expected
    assert song.kept.instruments_kept == 16


def test_bank_selects_and_registered_parameters_do_no_harm(tmp_path):
    setup = control(0, 1, 0) + control(32, 2, 0) + program(25, 0)
    bend_range = control(101, 0, 0) + control(100, 0, 0) + control(6, 12, 0) + control(38, 0, 0)
    song, why = examine(tmp_path, midi(setup + bend_range + note(0, 0, 60)))
    assert instruments(song.score) == [(25, 0, 60)]
    kept = [(c.number, c.value) for c in song.score.tracks[0].controls]
    assert kept == [(0, 1), (32, 2), (101, 0), (100, 0), (6, 12), (38, 0)]
    assert why == ""
