"""ABC notation: bars on bar lines, simultaneous chords, and no accompaniment."""

import pytest

from musiclora.symbolic.reading.read_folder import read_music

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
