"""Piano rolls of one instrument: notes where they sound, on shared axes; see test_band_roll.py for several."""

from __future__ import annotations

import io

import pytest
from matplotlib.image import imread
from render_helpers import PITCHES, chord_song
from symusic import Note, Score, TimeSignature

from musiclora.errors import DataError
from musiclora.reporting.lanes import shared_limits
from musiclora.reporting.piano_roll import pianoroll_figure, render_pianoroll
from musiclora.reporting.roll import roll_of


def test_roll_of_counts_in_quarters_and_bars_by_metre():
    score = chord_song(spacing=960)
    score.time_signatures.append(TimeSignature(0, 3, 4))
    score.time_signatures.append(TimeSignature(480 * 6, 6, 8))
    roll = roll_of(score)
    assert roll.start.tolist() == [0, 2, 4, 6]
    assert roll.pitch.tolist() == PITCHES
    assert roll.bars.tolist() == [0, 3, 6, 9]
    assert (shared_limits([roll]).low, shared_limits([roll]).high) == (54, 72)


def test_roll_of_leaves_out_what_is_hours_late():
    score = chord_song()
    score.tracks[0].notes.append(Note(2**30, 2**30, 60, 90))
    roll = roll_of(score)
    assert len(roll.start) == 4
    assert len(roll.bars) < 5


def test_pianoroll_draws_each_note_where_it_sounds():
    roll = roll_of(chord_song())
    figure = pianoroll_figure([("title", roll)])
    axis = figure.subfigs[0].axes[0]
    bodies = axis.collections[-2].get_paths()
    drawn = sorted((round(p.get_extents().x0, 2), round(p.get_extents().y0 + 0.42)) for p in bodies)
    assert drawn == [(0, 57), (1, 61), (2, 64), (3, 69)]
    assert figure.subfigs[0]._suptitle.get_text() == "title"


def test_pianoroll_pair_shares_its_axes():
    short, long = roll_of(chord_song()), roll_of(chord_song([40, 90], spacing=480 * 20))
    figure = pianoroll_figure([("base", short), ("adapted", long)])
    first, second = (part.axes[0] for part in figure.subfigs)
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim() == (37.5, 92.5)


def test_render_pianoroll_writes_a_png_for_any_title(tmp_path):
    render_pianoroll(chord_song(), tmp_path / "roll.png", "二泉映月 $x_1$ <b>")
    image = imread(io.BytesIO((tmp_path / "roll.png").read_bytes()))
    assert image.shape[0] > 150
    assert image.shape[1] > 600
    blue = (image[..., 2] - image[..., 0] > 0.2).mean()
    assert 0.003 < blue < 0.2  # the notes


def test_render_pianoroll_without_notes_is_refused(tmp_path):
    with pytest.raises(DataError, match="no notes"):
        render_pianoroll(Score(480), tmp_path / "roll.png", "empty")
    assert not list(tmp_path.iterdir())


def test_notes_that_are_not_drawn_are_counted(tmp_path):
    score = chord_song()
    score.tracks[0].notes.append(Note(480 * 5000, 480, 60, 90))
    assert render_pianoroll(score, tmp_path / "roll.png", "x") == ["1 notes after quarter 4096 are not drawn"]


def test_two_hands_of_one_instrument_share_a_keyboard_and_a_legend():
    score = chord_song()
    score.tracks.append(chord_song([40, 43]).tracks[0])
    score.tracks[0].name = "$right$"
    figure = pianoroll_figure([("", roll_of(score))])
    axis = figure.subfigs[0].axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["$right$", "track 2"]
    assert len(axis.collections[-2].get_paths()) == 6
    assert len({tuple(colour[:3]) for colour in axis.collections[-2].get_facecolors().tolist()}) == 2
    figure.draw_without_rendering()  # a name is no formula
