"""Scores: notes on a grid of note values, as MusicXML and ABC that read back to the same notes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from require import require
from symusic import KeySignature, Note, Score, Tempo, TimeSignature, Track

from musiclora.bundled import bundled_songs, bundled_tunes
from musiclora.cli import main
from musiclora.errors import DataError
from musiclora.symbolic.formats.abc import parse_tune, split_tunes
from musiclora.symbolic.formats.musicxml import read_musicxml
from musiclora.symbolic.render import render_file
from musiclora.symbolic.rendering.notation import notate_score
from musiclora.symbolic.rendering.write_abc import abc_of
from musiclora.symbolic.rendering.write_musicxml import musicxml_of, mxl_of

QUARTER = 480


def song(notes, **marks):
    """A score of one part; notes are (onset, length, pitch) in quarters."""
    made = Score(QUARTER)
    track = Track("Lead", marks.get("program", 0), marks.get("drums", False))
    track.notes.extend(Note(round(o * QUARTER), round(d * QUARTER), p, 90) for o, d, p in notes)
    made.tracks.append(track)
    made.time_signatures.extend(
        TimeSignature(round(at * QUARTER), n, d) for at, n, d in marks.get("metres", [(0, 4, 4)])
    )
    made.tempos.extend(Tempo(round(at * QUARTER), qpm=speed) for at, speed in marks.get("tempos", [(0, 120)]))
    if "sharps" in marks:
        made.key_signatures.append(KeySignature(0, marks["sharps"], 0))
    return made


def sounding(notation):
    """(onset, length, pitch) of every note."""
    return sorted((c.onset, c.length, p) for part in notation.parts for c in part.chords for p in c.pitches)


def read_back(score):
    quarter = score.ticks_per_quarter

    def exact(ticks):
        return Fraction(ticks, quarter).limit_denominator(24)

    return sorted((exact(n.time), exact(n.duration), n.pitch) for track in score.tracks for n in track.notes)


def test_each_quarter_takes_the_coarsest_division_that_its_onsets_are_near():
    played = [(0.01, 0.5, 60), (0.49, 0.5, 62), (1.0, 0.3, 64), (1.34, 0.3, 65), (1.66, 0.3, 67), (2.26, 0.7, 69)]
    notation = notate_score(song(played))
    onsets = [onset for onset, _, _ in sounding(notation)]
    assert onsets == [0, Fraction(1, 2), 1, Fraction(4, 3), Fraction(5, 3), Fraction(9, 4)]
    (moved,) = [line for line in notation.remarks if "moved" in line]
    # 5 of 6 onsets are off the grid; the farthest by 0.01 of a quarter of 500 ms
    assert moved == "5 notes moved to the grid of note values (down to 32nd notes and triplets), by at most 5 ms"


def test_notes_on_the_grid_stay_and_nothing_is_said():
    notation = notate_score(song([(0, 1, 60), (1, 0.5, 62), (1.5, 0.5, 64)], sharps=0))
    assert notation.remarks == ()


def test_a_key_struck_again_ends_its_earlier_note():
    assert sounding(notate_score(song([(0, 3, 60), (1, 1, 60)]))) == [(0, 1, 60), (1, 1, 60)]


def test_the_key_is_the_file_s_own_or_said_to_be_estimated():
    scale = [(i, 1, p) for i, p in enumerate((67, 69, 71, 72, 74, 76, 78, 79))]
    assert notate_score(song(scale, sharps=-3)).sharps == -3
    estimated = notate_score(song(scale))
    assert (estimated.sharps, estimated.minor) == (1, False)
    assert estimated.remarks == ("the file states no key; G major fits its notes best",)


@st.composite
def melodies(draw):
    """One voice of notes and rests on the grid, in a key and a metre."""
    at, notes = Fraction(0), []
    for _ in range(draw(st.integers(1, 14))):
        if at.denominator == 1 and draw(st.booleans()) and draw(st.booleans()):
            for i in range(3):  # a triplet on a beat
                notes.append((at + Fraction(i, 3), Fraction(1, 3), draw(st.integers(36, 96))))
            at += 1
            continue
        length = Fraction(draw(st.sampled_from((1, 2, 3, 4, 6, 8, 12, 16))), 4)
        if at.denominator == 1:
            at += draw(st.sampled_from((0, 0, 1, 2)))
        notes.append((at, length, draw(st.integers(36, 96))))
        at += length
    metre = draw(st.sampled_from(((0, 4, 4), (0, 3, 4), (0, 6, 8), (0, 2, 2), (0, 5, 4))))
    return song(notes, sharps=draw(st.integers(-7, 7)), metres=[metre])


@settings(max_examples=40, deadline=None)
@given(melodies())
def test_abc_reads_back_to_the_same_notes(score):
    notation = notate_score(score)
    found = split_tunes(abc_of(notation, "A tune"))
    assert read_back(parse_tune(found.tunes[0], found.shared)[0]) == sounding(notation)


@settings(max_examples=15, deadline=None)
@given(melodies())
def test_musicxml_reads_back_to_the_same_notes(tmp_path_factory, score):
    require("music21")
    notation = notate_score(score)
    path = tmp_path_factory.mktemp("xml") / "song.musicxml"
    path.write_bytes(musicxml_of(notation, "A tune"))
    assert read_back(read_musicxml(path)[0]) == sounding(notation)


def test_a_band_reads_back_with_its_instruments_and_drums(tmp_path):
    require("music21")
    notation = notate_score(Score(bundled_songs()[0]))
    path = tmp_path / "band.mxl"
    path.write_bytes(mxl_of(musicxml_of(notation, "A band")))
    found = read_musicxml(path)[0]
    assert read_back(found) == sounding(notation)
    assert [-1 if t.is_drum else t.program for t in found.tracks] == [part.program for part in notation.parts]


def test_another_reader_finds_the_same_notes_in_abc():
    music21 = require("music21")
    notation = notate_score(Score(bundled_tunes()[3]))
    other = music21.converter.parseData(abc_of(notation, "A tune"), format="abc").stripTies().flatten().notes
    assert sorted((Fraction(n.offset).limit_denominator(24), p.midi) for n in other for p in n.pitches) == sorted(
        (onset, pitch) for onset, _, pitch in sounding(notation)
    )


def test_triplets_beams_and_accidentals_are_written_as_musicians_read_them():
    third = Fraction(1, 3)
    notes = [(0, third, 66), (third, third, 67), (2 * third, third, 69), (1, 0.5, 65), (1.5, 0.5, 66), (2, 2, 74)]
    text = abc_of(notate_score(song(notes, sharps=1)), "x")
    assert text.splitlines()[-1] == "(3FGA =F^F d4 |]"


def test_metres_and_tempos_that_change_are_written():
    notes = [(i, 1, 60 + i) for i in range(10)]
    score = song(notes, metres=[(0, 4, 4), (4, 3, 4)], tempos=[(0, 100), (7, 80)], sharps=0)
    text = abc_of(notate_score(score), "x")
    assert "M:4/4" in text
    assert "[M:3/4]" in text
    assert "Q:1/4=100" in text
    assert "[Q:1/4=80]" in text


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (song([(0, 1, 36)], drums=True), "ABC holds no drums"),
        (song([(0, 2, 60), (1, 2, 64)]), r"notes of Lead overlap \(quarter 1\)"),
    ],
    ids=["drums", "two voices"],
)
def test_what_abc_cannot_hold_is_one_line_with_a_way_out(score, message):
    with pytest.raises(DataError, match=message):
        abc_of(notate_score(score), "x")


def test_render_writes_scores_of_chosen_parts_and_says_what_was_moved(tmp_path):
    require("music21")
    source = bundled_songs()[0]
    for suffix in (".musicxml", ".mxl", ".abc"):
        made = render_file(source, tmp_path / f"bass{suffix}", solo="bass")
        assert made.line() == f"wrote {tmp_path / f'bass{suffix}'}: 1 part"
    again = render_file(tmp_path / "bass.mxl", tmp_path / "again.mid")
    assert again.parts == 1
    assert len(Score(tmp_path / "again.mid").tracks[-1].notes) == sum(
        len(part.chords) for part in notate_score(Score(tmp_path / "again.mid")).parts
    )
    off = song([(0.02, 1, 60), (1, 1, 62)], sharps=0)
    off.dump_midi(tmp_path / "off.mid")
    assert render_file(tmp_path / "off.mid", tmp_path / "off.abc").remarks == (
        "1 note moved to the grid of note values (down to 32nd notes and triplets), by at most 10 ms",
    )


def test_drums_in_abc_leave_nothing_behind(tmp_path):
    result = CliRunner().invoke(main, ["render", str(bundled_songs()[0]), "--output", str(tmp_path / "x.abc")])
    refused(result, "ABC holds no drums; leave them out with --mute drums")
    assert list(tmp_path.iterdir()) == []
