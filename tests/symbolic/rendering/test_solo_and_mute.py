"""Solo and mute: the chosen parts sound, and everything else of a MIDI file stays as it is, event for event."""

from __future__ import annotations

from pathlib import Path

import mido
import numpy as np
import pytest
from click.testing import CliRunner
from full_song import write_song
from refusal import refused
from render_helpers import band_song
from symusic import ControlChange, Note, Score
from track_bytes import NOTE, track_of

from musiclora.cli import main
from musiclora.convert.errors import ConfigError, DataError
from musiclora.reporting.roll import roll_of
from musiclora.symbolic import render
from musiclora.symbolic.formats.midi import read_layout
from musiclora.symbolic.formats.midi_events import read_all_events
from musiclora.symbolic.render import render_file
from musiclora.symbolic.rendering.part_choice import Choice, choose_parts, list_song_parts, midi_file, select_messages
from musiclora.symbolic.rendering.parts import arrange_parts, pass_midi
from musiclora.symbolic.rendering.reading import read_heard_score, read_song_events

NASTY = sorted((Path(__file__).parents[2] / "data" / "nasty_midi").glob("*.mid"))


NOTES = ("note_on", "note_off", "polytouch")


def events_of(path: Path) -> list[list[tuple[int, object]]]:
    """Return tick and message of every event of each track, without the end of the track."""
    found = []
    for track in mido.MidiFile(path).tracks:
        ticks = np.cumsum([message.time for message in track]).tolist()
        found.append([(t, m.copy(time=0)) for t, m in zip(ticks, track, strict=True) if m.type != "end_of_track"])
    return found


def without_notes(tracks, channels) -> list[list[tuple[int, object]]]:
    return [[(t, m) for t, m in track if not (m.type in NOTES and m.channel in channels)] for track in tracks]


@pytest.fixture
def song(tmp_path) -> Path:
    return write_song(tmp_path / "song.mid")


@pytest.mark.parametrize("form", [0, 1])
def test_what_is_not_muted_is_untouched_event_for_event(tmp_path, form):
    rng = np.random.default_rng(form)
    names = ["piano", "track 2", "flute", "33", "drums"]
    meant = [{0}, {1}, {2}, {1, 3}, {9}]  # channels
    for seed in range(8):
        path = write_song(tmp_path / f"{seed}.mid", seed, form)
        layout = read_layout(path.read_bytes())
        events = read_all_events(layout.tracks)
        parts = list_song_parts(events, layout.tracks, layout.division)
        picked = rng.choice(5, rng.integers(1, 4), replace=False).tolist()
        listed = ", ".join(names[i] for i in picked)
        chosen = set().union(*(meant[i] for i in picked))
        for option in ("solo", "mute"):
            muted = chosen if option == "mute" else {0, 1, 2, 3, 9} - chosen
            choice = choose_parts(parts, **{"solo": None, "mute": None, option: listed})
            out = tmp_path / "out.mid"
            out.write_bytes(midi_file(select_messages(layout.tracks, choice), b"\x01\xe0"))
            assert events_of(out) == without_notes(events_of(path), muted), (seed, option, listed)
            rest = select_messages(layout.tracks, choice, muted=True)
            out.write_bytes(midi_file(rest, b"\x01\xe0"))
            assert events_of(out) == without_notes(events_of(path), {0, 1, 2, 3, 9} - muted)


def test_render_writes_the_chosen_parts_and_keeps_the_rest(song, tmp_path):
    result = CliRunner().invoke(
        main, ["render", str(song), "--output", str(tmp_path / "out.mid"), "--solo", "bass,drums", "--mute", "part 3"]
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"wrote {tmp_path / 'out.mid'}: 2 parts\n"
    assert events_of(tmp_path / "out.mid") == without_notes(events_of(song), {0, 2, 3})
    file = mido.MidiFile(tmp_path / "out.mid")
    assert (file.type, file.ticks_per_beat, len(file.tracks)) == (1, 480, 6)


def test_without_a_choice_the_whole_file_is_written(song, tmp_path):
    assert render_file(song, tmp_path / "out.mid").parts == 5
    assert events_of(tmp_path / "out.mid") == events_of(song)


@pytest.mark.parametrize("path", NASTY, ids=lambda p: p.name)
def test_a_damaged_file_keeps_every_event_that_is_read(path):
    try:
        song = read_song_events(path)
    except DataError:
        return
    parts = list_song_parts(song.tracks, song.raw, song.division)
    if not parts:
        return
    whole = choose_parts(parts, None, None)
    written = read_layout(midi_file(select_messages(song.raw, whole), song.time_division))
    assert written.repairs == [] or written.smpte
    assert (written.division, written.smpte) == (song.division, not song.use_tempos)
    for before, after in zip(song.tracks, read_all_events(written.tracks), strict=True):
        assert before.rows.tolist() == after.rows.tolist()
        assert after.problem == ""
    for part in parts[: 3 if len(parts) < 100 else 0]:
        rest = Choice(parts, whole.heard - {(part.number, program) for program in part.programs})
        tracks = read_all_events(select_messages(song.raw, rest))
        left = list_song_parts(tracks, select_messages(song.raw, rest), song.division)
        assert len(left) == len(parts) - 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--solo", "banjo"], ['--solo: nothing in the song is called "banjo"', 'track 2 "part 1" (Electric Bass']),
        (["--mute", "flute, xx,zz"], ['--mute: nothing in the song is called "xx", "zz"', 'track 5 "part 4" (Drums)']),
        (["--solo", " , "], ["--solo: names nothing", "track 1"]),
        (["--mute", ""], ["--mute: names nothing"]),
        (["--mute", "piano,bass,flute,drums"], ["--mute: nothing is left"]),
        (["--solo", "flute", "--mute", "73"], ["--mute and --solo: nothing is left"]),
        (["--solo", "track 6"], ["track 6"]),
        (["--solo", "128"], ["128"]),
        (["--solo", "\x1b[31m"], ["u001b"]),
    ],
)
@pytest.mark.parametrize("suffix", ["mid", "png", "wav"])
def test_what_matches_nothing_is_one_line_that_lists_the_tracks(song, tmp_path, options, words, suffix):
    before = sorted(tmp_path.iterdir())
    result = CliRunner().invoke(main, ["render", str(song), "--output", str(tmp_path / f"out.{suffix}"), *options])
    line = refused(result, *words, str(song))
    assert "\x1b" not in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_without_notes_is_refused(tmp_path):
    (tmp_path / "empty.mid").write_bytes(midi_file([track_of(b"\x00\xc0\x01")], b"\x01\xe0"))
    for mute in (None, "drums"):
        with pytest.raises(DataError, match="no notes"):
            render_file(tmp_path / "empty.mid", tmp_path / "out.mid", mute=mute)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.mid"]


def test_an_output_never_replaces_its_input(song):
    with pytest.raises(ConfigError, match="is the file of FILE"):
        render_file(song, song, mute="drums", overwrite=True)


def test_time_in_smpte_frames_stays(tmp_path):
    raw = track_of(b"\x00\xff\x51\x03\x07\xa1\x20", NOTE)
    (tmp_path / "smpte.mid").write_bytes(midi_file([raw], b"\xe7\x28"))
    render_file(tmp_path / "smpte.mid", tmp_path / "out.mid")
    assert (tmp_path / "out.mid").read_bytes()[12:14] == b"\xe7\x28"
    assert len(read_layout((tmp_path / "out.mid").read_bytes()).tracks[0]) >= len(raw)


def test_an_abc_tune_becomes_midi(tmp_path):
    (tmp_path / "tune.abc").write_text("X:1\nT:Scale\nM:3/4\nL:1/4\nK:G\nGAB|cde|\n")
    render_file(tmp_path / "tune.abc", tmp_path / "out.mid")
    score = Score(str(tmp_path / "out.mid"))
    assert [note.pitch for note in score.tracks[0].notes] == [67, 69, 71, 72, 74, 76]
    assert (score.time_signatures[0].numerator, score.time_signatures[0].denominator) == (3, 4)


def arrange(path: Path, solo: str | None = None, mute: str | None = None):
    song = read_song_events(path)
    choice = choose_parts(list_song_parts(song.tracks, song.raw, song.division), solo, mute)
    return arrange_parts(song.tracks, song.division, 900, True, choice.keep_heard)


def test_the_drums_alone_are_still_played_on_the_drum_channel(song):
    arranged = arrange(song, solo="drums")
    assert [part.is_drum for part in arranged.parts] == [True]
    rows = read_all_events([pass_midi(arranged.parts, arranged.end)[22:]])[0].rows
    sounding = rows[(rows[:, 1] & 0xF0 == 0x90) & (rows[:, 1] < 0x100)]
    assert len(sounding)
    assert set(sounding[:, 1].tolist()) == {0x99}


def test_a_part_keeps_the_settings_that_a_muted_track_gives_it(tmp_path):
    right = track_of(b"\x00\xc0\x28", b"\x00\xb0\x0a\x10", NOTE)
    left = track_of(NOTE.replace(b"\x3c", b"\x30"))  # shares program and pan of its channel
    (tmp_path / "hands.mid").write_bytes(midi_file([right, left], b"\x01\xe0"))
    (part,) = arrange(tmp_path / "hands.mid", mute="track 1").parts
    settings = {tuple(row[1:]) for row in part.settings.tolist()}
    assert {(0xC0, 40, 0), (0xB0, 10, 16)} <= settings
    assert part.notes[:, 2].tolist() == [48]


def test_solo_and_its_mute_share_out_the_notes_of_the_sound(song):
    every, picked, rest = arrange(song), arrange(song, solo="bass,drums"), arrange(song, mute="bass,drums")
    assert len(every.parts) == len(picked.parts) + len(rest.parts) == 5
    together = [*picked.parts, *rest.parts]
    assert sorted(p.notes.tolist() for p in together) == sorted(p.notes.tolist() for p in every.parts)


def test_the_picture_of_some_parts_has_the_times_of_the_whole_song(tmp_path):
    score = band_song((73, 0, 33), bars=4)
    score.tracks[1].notes = [note for note in score.tracks[1].notes if note.time >= 480 * 8]
    for track in (score.tracks[0], score.tracks[1]):  # a silence of 60 bars, which the picture closes
        track.notes.append(Note(480 * 4 * 64, 480, 60, 90))
    score.tracks[0].controls.append(ControlChange(0, 7, 100))
    score.dump_midi(tmp_path / "gap.mid")
    song = read_song_events(tmp_path / "gap.mid")
    parts = list_song_parts(song.tracks, song.raw, song.division)
    whole = roll_of(read_heard_score(song, choose_parts(parts, None, None))[0])
    assert whole.end < 4 * 20
    for part in parts[:3]:
        found, remarks = read_heard_score(song, choose_parts(parts, f"track {part.number}", None))
        roll = roll_of(found)
        assert roll.programs == part.programs
        wanted = whole.start[whole.track == whole.programs.index(part.programs[0])]
        assert roll.start.tolist() == wanted.tolist()
        assert any("silences" in remark for remark in remarks)


def test_a_picture_shows_the_lanes_that_are_left(song, tmp_path, monkeypatch):
    shown = []
    from musiclora.reporting import piano_roll

    drawn = piano_roll.render_pianoroll
    monkeypatch.setattr(
        piano_roll, "render_pianoroll", lambda score, *rest, **options: shown.append(score) or drawn(score, *rest)
    )
    render_file(song, tmp_path / "out.png", mute="bass,drums")
    assert sorted((t.program, t.is_drum) for t in shown[0].tracks) == [(0, False), (73, False)]
    assert (tmp_path / "out.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_sound_of_some_parts_is_that_of_a_song_of_those_parts(song, tmp_path):
    alone = write_song(tmp_path / "alone.mid")
    file = mido.MidiFile(alone)
    for track in file.tracks[1:-1]:
        track[:] = mido.MidiTrack()
    file.save(alone)
    results = [
        render.render_audio(song, tmp_path / "a.wav", solo="drums"),
        render.render_audio(alone, tmp_path / "b.wav"),
    ]
    assert [result.parts for result in results] == [1, 1]
    first, second = (
        np.frombuffer((tmp_path / name).read_bytes()[44:], "<i2").astype(float) for name in ("a.wav", "b.wav")
    )
    length = min(len(first), len(second))
    assert np.corrcoef(first[:length], second[:length])[0, 1] > 0.99
