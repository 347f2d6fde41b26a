"""Piano rolls: notes and drums where they sound, on shared axes."""

from __future__ import annotations

import io

import pytest
from matplotlib.image import imread
from render_helpers import PITCHES, chord_song
from symusic import Note, Score, TimeSignature, Track

from musiclora.errors import DataError
from musiclora.reporting.piano_roll import pianoroll_figure, render_pianoroll, roll_of, shared_limits


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


def band() -> Score:
    score = chord_song()
    drums = Track(is_drum=True)
    for time, pitch in ((0, 36), (480, 38), (960, 36), (960, 42), (2400, 49)):
        drums.notes.append(Note(time, 100, pitch, 100))
    score.tracks.append(drums)
    return score


def test_drums_are_drawn_in_a_lane_of_their_own():
    roll = roll_of(band())
    assert len(roll.start) == 4
    assert roll.hits[:, :2].tolist() == [[0, 36], [1, 38], [2, 36], [2, 42], [5, 49]]
    assert roll.end == 5
    limits = shared_limits([roll])
    assert limits.drums == (36, 38, 42, 49)
    axis = pianoroll_figure([("", roll)]).subfigs[0].axes[0]
    strokes = [path.get_extents() for path in axis.collections[-1].get_paths()]
    assert len(strokes) == 5
    assert max(box.y1 for box in strokes) < limits.low - 0.5
    assert min(box.y0 for box in strokes) > axis.get_ylim()[0]
    assert "drums" in [label.get_text() for label in axis.get_yticklabels()]


def test_drums_alone_are_drawn_as_notes():
    score = band()
    score.tracks = [score.tracks[1]]
    assert roll_of(score).pitch.tolist() == [36, 38, 36, 42, 49]


def test_notes_that_are_not_drawn_are_counted(tmp_path):
    score = band()
    score.tracks[0].notes.append(Note(480 * 5000, 480, 60, 90))
    assert render_pianoroll(score, tmp_path / "roll.png", "x") == ["1 notes after quarter 4096 are not drawn"]
