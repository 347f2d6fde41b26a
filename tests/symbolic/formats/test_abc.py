"""ABC notation: bars on bar lines, simultaneous chords, and no accompaniment."""

import sys
from pathlib import Path

import pytest

from musiclora.convert.errors import DataError
from musiclora.symbolic.formats.abc import MAX_HEADER_CHARACTERS, split_tunes
from musiclora.symbolic.formats.abc_text import drop_prose
from musiclora.symbolic.reading.read_folder import read_music

FOUND = Path(__file__).parents[2] / "golden" / "found"

HEAD = "X:1\nT:t\nM:{metre}\nL:1/8\nK:C\n"


@pytest.fixture
def read(tmp_path):
    def read_tune(metre, body):
        (tmp_path / "tune.abc").write_text(HEAD.format(metre=metre) + body + "\n", encoding="utf-8")
        (song,) = read_music(tmp_path, workers=1).songs
        return song.score

    return read_tune


@pytest.mark.parametrize(
    ("metre", "body", "first_onsets"),
    [
        ("4/4", "c2c2c2c2|d4d4|e8|", [0, 480, 960, 1440, 1920]),
        ("3/4", "AB|c2d2e2|f6|g6|", [960, 1200, 1440, 1920, 2400]),
        ("6/8", "A|cde fga|c3 d3|e6|", [1200, 1440, 1680, 1920, 2160]),
        ("4/4", "z2AB|c4d4|e4f4|", [1440, 1680, 1920, 2880, 3840]),
    ],
    ids=["no pickup", "two quavers", "one quaver of 6/8", "pickup after a rest"],
)
def test_first_full_bar_begins_on_a_bar_line(read, metre, body, first_onsets):
    (track,) = read(metre, body).tracks

    assert [note.time for note in track.notes][:5] == first_onsets


def test_a_change_of_metre_moves_with_the_music(read):
    score = read("3/4", "AB|c2d2e2|f6|g6|\nM:2/4\nc4|d4|")

    assert [(t.time, t.numerator) for t in score.time_signatures] == [(0, 3), (5760, 2)]


def test_durations_are_exact_and_notes_of_a_chord_sound_together(read):
    (track,) = read("4/4", "[CEG]4 c3d|e8|").tracks

    found = [(note.time, note.duration, note.pitch) for note in track.notes]
    assert found == [(0, 960, 60), (0, 960, 64), (0, 960, 67), (960, 720, 72), (1680, 240, 74), (1920, 1920, 76)]


def test_guitar_chords_add_no_track(read):
    assert [len(track.notes) for track in read("4/4", '"C"c4"G7"d4|"F"e4"C"f4|').tracks] == [4]


def test_dynamics_leave_the_pickup_on_its_beat():
    (song,) = read_music(FOUND / "dyn.abc", workers=1).songs
    notes = song.score.tracks[0].notes

    assert [note.time for note in notes][:4] == [1440, 1680, 1920, 2880]
    assert [note.velocity for note in notes][2:7:2] == [105, 60, 120]  # f, p and ff stay


@pytest.mark.parametrize("mark", ["!p!", "+ff+", "!crescendo(!", "!accent!", "!>!"])
def test_every_mark_of_loudness_leaves_the_pickup_on_its_beat(read, mark):
    (track,) = read("4/4", f"GA|{mark}c4 {mark}c4|{mark}d4 {mark}d4|{mark}e4 e4|{mark}c6|").tracks

    assert [note.time for note in track.notes][:3] == [1440, 1680, 1920]


def test_prose_among_the_music_is_left_out_and_said():
    reading = read_music(FOUND / "prose_inside.abc", workers=1)

    assert [note.pitch for note in reading.songs[0].score.tracks[0].notes] == [
        *(60, 62, 64, 65, 67, 69, 71, 72),
        *(72, 71, 69, 67, 65, 64, 62, 60),
    ]
    assert (reading.health[0].status, reading.health[0].why) == (
        "repaired",
        "lines of text among the music left out: 1",
    )


@pytest.mark.parametrize(
    "line",
    ["Second part", "Bridge:", "played slowly, with feeling", "%%begintext\nCabbage bed\n%%endtext"],
)
def test_lines_of_text_are_prose(line):
    assert drop_prose(f"X:1\nK:C\nCDEF|\n{line}\nGABc|\n")[0] == "X:1\nK:C\nCDEF|\nGABc|\n"


@pytest.mark.parametrize(
    "line",
    [
        "w:hel-lo my friend",
        "%%MIDI program 40",
        "P:Second part",
        '"Slowly and softly"CDEF|',
        "RA2 RB2 Tc2 uBvc|",
        "!fermata!c4 !trill!d4|",
        "hC2 hD2|",
        '|| "f"kD2 kC2 {C}kB,2 kC2 | (C/D/)z (C/B,/)z',
        'vk[c4E4]uk[d4G4]|k"0"[c2e2]k[c2E2] z2udve|',
        ".akA2.A .A.B.c.A | .EkA2.A .A.c.e.c  | .dkB2.B .B.c.B.A | GABc defg |",
        "(uiBc)",
        "[I:setbarnb 10]CDEF|",
        "z4|Z4|x4 y|]",
    ],
)
def test_lines_of_music_are_not_prose(line):
    tune = f"X:1\nU:h=fermata\nK:C\n{line}\n"
    assert drop_prose(tune) == (tune, 0)


def test_a_tune_without_a_key_is_skipped_with_the_reason(tmp_path):
    reading = read_music(FOUND / "nok.abc", workers=1, need_songs=False)

    assert [row.why for row in reading.health] == ["no K: line, which gives the key and begins the music"]


def test_a_tune_without_music_names_no_temporary_file(tmp_path):
    (tmp_path / "a.abc").write_text("X:1\nT:t\nM:4/4\nK:\n")
    (row,) = read_music(tmp_path, workers=1, need_songs=False).health

    assert row.status == "skipped"
    assert "symusic" not in row.why
    assert "/" not in row.why


def test_header_lines_hold_for_every_tune_and_are_kept_once():
    file = split_tunes("%%MIDI program 40\nM:3/4\n\n" + "X:1\nK:C\nC|\n" * 500)

    assert file.shared == "%%MIDI program 40\nM:3/4\n"
    assert len(file.tunes) == 500
    assert file.tunes[0] == "X:1\nK:C\nC|\n"


def most_memory_kib() -> int:
    """Return the most memory that this process has held; 0 where the system counts it otherwise."""
    if sys.platform != "linux":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_a_header_of_megabytes_is_refused_in_the_child(tmp_path):
    (tmp_path / "a.abc").write_text("%%comment\n" * 400_000 + "X:1\nK:C\nC|\n" * 1000)
    before = most_memory_kib()
    (row,) = read_music(tmp_path, workers=1, need_songs=False).health

    assert str(MAX_HEADER_CHARACTERS) in row.why
    assert most_memory_kib() - before < 100 << 10  # the file has 4 MB
    with pytest.raises(DataError, match="at most 100000 are read"):
        split_tunes("X:1\n" * 100_001)


def test_a_note_without_end_is_refused_before_it_is_parsed(read):
    with pytest.raises(DataError, match="a note of 31000000 unit lengths"):
        read("4/4", "CDE(fd31000000 a3f)|")
    assert len(read("4/4", 'CDEF"20200101"GABc|% 20200101').tracks[0].notes) == 8
