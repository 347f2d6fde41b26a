"""Highlighted bars of piano rolls, of one instrument and of a band."""

from __future__ import annotations

import pytest
from melodies import score_of, tune
from symusic import Note, Track

from musiclora.reporting.piano_roll import pianoroll_figure
from musiclora.reporting.roll import roll_of


def marks_of(figure):
    """List left and right edges of the highlighted bars, in order."""
    patches = [patch for axis in figure.get_axes() for patch in axis.patches if patch.get_gid() == "marked"]
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in patches]


@pytest.mark.parametrize(
    ("span", "bars"), [((5.0, 7.5), (4.0, 8.0)), ((4.0, 12.0), (4.0, 16.0)), ((30.0, 31.5), (28.0, 32.0))]
)
def test_a_passage_is_shown_by_whole_bars(span, bars):
    assert roll_of(score_of(tune(1, bars=8)), [span]).marked_bars == [bars]


@pytest.mark.parametrize("instruments", [1, 2])
def test_highlighted_bars_are_drawn_in_every_line_they_reach(instruments):
    score = score_of(tune(1, bars=8))
    if instruments == 2:
        score.tracks.append(Track(program=33))
        score.tracks[-1].notes.append(Note(0, 480, 40, 80))
    plain = pianoroll_figure([("", roll_of(score))], line_quarters=16.0)
    assert marks_of(plain) == []
    figure = pianoroll_figure([("", roll_of(score, [(13.0, 18.0)]))], line_quarters=16.0)
    assert marks_of(figure) == [(12.0, 16.0), (16.0, 20.0)]
