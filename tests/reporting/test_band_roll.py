"""Pictures of bands: a lane for each instrument, a row for each drum, shared by the pictures of one pair."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex
from render_helpers import band_song
from roll_boxes import axes_of, boxes_of
from symusic import Note, Score, TimeSignature, Track

from musiclora.errors import DataError
from musiclora.music.drums import DRUM_NAMES, drum_name, drum_order
from musiclora.reporting.band_roll import INK, plan_geometry, plan_lines
from musiclora.reporting.lanes import COLOURS, MOST_DRUM_ROWS, MOST_LANES, list_instruments, shared_limits
from musiclora.reporting.piano_roll import pianoroll_figure, render_pianoroll
from musiclora.reporting.roll import roll_of


def labels_of(axis) -> dict[str, tuple[float, str]]:
    """Return place and colour of the names at the left, from the top down."""
    ticks = sorted(zip(axis.get_yticks(), axis.get_yticklabels(), strict=True), key=lambda item: -item[0])
    return {text.get_text().replace("\n", " "): (float(place), to_hex(text.get_color())) for place, text in ticks}


def test_every_instrument_has_a_lane_with_its_name_and_colour():
    (axis,) = axes_of(band_song((0, 33, 73), bars=2))
    labels = labels_of(axis)
    names = ["Flute", "Acoustic Grand Piano", "Electric Bass (finger)"]
    assert list(labels) == [*names, "Closed hat", "Snare", "Kick"]  # winds above keys above the bass, drums below
    colours = [labels[name][1] for name in names]
    assert len(set(colours)) == 3
    for name, colour in zip(names, colours, strict=True):
        mine = [box for box in boxes_of(axis, "notes") if box[4] == colour]
        assert len(mine) == 8
        assert min(b[2] for b in mine) < labels[name][0] < max(b[3] for b in mine)
    tops = {c: max(b[3] for b in boxes_of(axis, "notes") if b[4] == c) for c in colours}
    floors = {c: min(b[2] for b in boxes_of(axis, "notes") if b[4] == c) for c in colours}
    for upper, lower in pairwise(colours):
        assert floors[upper] > tops[lower]
    assert min(floors.values()) > max(box[3] for box in boxes_of(axis, "drums"))


def test_notes_of_a_lane_lie_where_they_sound_and_as_high_as_their_pitch():
    score = band_song((73, 33), bars=1, drums=False)
    (axis,) = axes_of(score)
    limits = shared_limits([roll_of(score)])
    semitone = plan_geometry(limits).semitone
    for lane in limits.lanes:
        boxes = sorted(box for box in boxes_of(axis, "notes") if box[4] == lane.colour)
        assert [round(box[0], 2) for box in boxes] == [0, 1, 2, 3]
        middles = np.array([(box[2] + box[3]) / 2 for box in boxes])
        assert (middles - middles[0]) / semitone == pytest.approx([0, 4, 7, 5])


def test_drums_lie_in_rows_named_by_drum_and_only_those_that_sound_have_one():
    (axis,) = axes_of(band_song((33,), bars=1))
    labels, boxes = labels_of(axis), boxes_of(axis, "drums")
    assert {box[4] for box in boxes} == {INK}
    for name, times in {"Kick": [0, 2], "Snare": [1, 3], "Closed hat": [0.5, 1.5, 2.5, 3.5]}.items():
        place = labels.pop(name)[0]
        assert sorted(box[0] for box in boxes if box[2] < place < box[3]) == times
    assert list(labels) == ["Electric Bass (finger)"]


def test_drums_alone_are_a_grid_of_drums():
    score = band_song((), bars=2)
    (axis,) = axes_of(score)
    assert list(labels_of(axis)) == ["Closed hat", "Snare", "Kick"]
    assert len(boxes_of(axis, "drums")) == 16
    assert boxes_of(axis, "notes") == []
    assert list_instruments(roll_of(score)) == ["drums"]


def test_a_drum_on_the_last_bar_line_is_drawn():
    score = band_song((33,), bars=1)
    score.tracks[-1].notes.append(Note(480 * 4, 60, 49, 100))
    (axis,) = axes_of(score)
    assert max(box[0] for box in boxes_of(axis, "drums")) == 4


def test_louder_notes_and_drums_are_darker():
    (axis,) = axes_of(band_song((33,), bars=1))
    shades = {round(box[0], 1): box[5] for box in boxes_of(axis, "drums")}
    assert shades[0] < shades[0.5] < shades[1]  # 60, 80 and 100
    notes = {round(box[0]): box[5] for box in boxes_of(axis, "notes")}
    assert notes[0] < notes[1] < notes[2]


def test_a_pair_has_the_same_lanes_colours_and_rows_in_both_pictures():
    base, adapted = roll_of(band_song((33, 0), bars=2, drums=False)), roll_of(band_song((73, 0, 40), bars=20))
    limits = shared_limits([base, adapted])
    axes = [pianoroll_figure([("", roll)], limits).subfigs[0].axes for roll in (base, adapted)]
    assert len(axes[0]) == len(axes[1]) > 1
    assert labels_of(axes[0][0]) == labels_of(axes[1][0])
    assert [axes[n][0].get_xlim() for n in (0, 1)] == [axes[1][0].get_xlim()] * 2
    assert {"Flute", "Violin", "Acoustic Grand Piano", "Kick"} < set(labels_of(axes[0][0]))
    piano = labels_of(axes[0][0])["Acoustic Grand Piano"][1]
    for axis in (axes[0][0], axes[1][0]):
        assert piano in {box[4] for box in boxes_of(axis, "notes")}
    violin = labels_of(axes[0][0])["Violin"][1]
    assert violin not in {box[4] for box in boxes_of(axes[0][0], "notes")}
    one = pianoroll_figure([("base", base), ("adapted", adapted)], limits)
    assert [labels_of(part.axes[0]) for part in one.subfigs] == [labels_of(axes[0][0])] * 2


def test_an_instrument_keeps_its_colour_whatever_plays_beside_it():
    for programs in ((0,), (0, 33), (73, 56, 0, 33)):
        lanes = shared_limits([roll_of(band_song(programs))]).lanes
        assert {lane.label: lane.colour for lane in lanes}["Acoustic Grand Piano"] == COLOURS[0]


def test_bar_lines_and_numbers_go_by_the_own_metres_and_lines_break_at_bars():
    score = band_song((0, 33), bars=15, drums=False)
    score.time_signatures = [TimeSignature(0, 3, 4), TimeSignature(480 * 33, 6, 8), TimeSignature(480 * 48, 5, 4)]
    axes = axes_of(score)
    wanted = [*range(0, 48, 3), *range(48, 59, 5), 63]
    drawn = []
    for axis in axes:
        (lines,) = (c for c in axis.collections if c.get_gid() == "bars")
        drawn += [round(path.vertices[0, 0], 3) for path in lines.get_paths()]
        assert axis.get_xlim()[0] == pytest.approx(drawn[-len(lines.get_paths())], abs=0.1)
    assert sorted(set(drawn)) == wanted
    numbers = [label.get_text() for axis in axes for label in axis.get_xticklabels()]
    assert numbers == [str(number) for number in range(1, len(wanted))]
    for before, after in pairwise(axes):
        assert max(box[1] for box in boxes_of(before, "notes")) <= min(box[0] for box in boxes_of(after, "notes"))


def test_a_note_over_a_line_break_is_drawn_in_both_lines_and_begins_once():
    score = band_song((0, 33), bars=12, drums=False)
    score.tracks[0].notes.append(Note(480 * 30, 480 * 4, 90, 80))
    first, second, *_ = axes_of(score)
    (begun,) = (box for box in boxes_of(first, "notes") if box[0] == 30 and box[1] > 31.5)
    assert begun[1] == pytest.approx(32, abs=0.04)
    assert [box[1] for box in boxes_of(second, "notes") if box[0] == 32 and box[1] > 33.5] == [pytest.approx(33.97)]
    assert len(boxes_of(second, "notes")) == len(boxes_of(second, "heads")) + 1


@pytest.mark.parametrize("drums", [False, True])
def test_sixteen_lanes_stay_legible_and_lanes_are_as_high_as_their_pitches_need(drums):
    programs = [*range(0, 8 * (MOST_LANES - drums), 8)]
    score = band_song(programs, bars=8, drums=drums)
    score.tracks[3].notes.append(Note(0, 480, 20, 90))
    score.tracks[3].notes.append(Note(0, 480, 108, 90))
    limits = shared_limits([roll_of(score)])
    assert len(limits.lanes) == len(programs)
    geometry = plan_geometry(limits)
    assert min(geometry.heights) >= 0.3  # inches, of two lines of 8 points
    spans = [lane.high - lane.low + 1 for lane in limits.lanes]
    assert int(np.argmax(geometry.heights)) == int(np.argmax(spans))
    assert max(geometry.heights) == pytest.approx(max(spans) * geometry.semitone)
    figure = pianoroll_figure([("", roll_of(score))])
    figure.draw_without_rendering()
    axis = figure.subfigs[0].axes[0]
    texts = sorted((text.get_window_extent() for text in axis.get_yticklabels()), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(texts))  # within a pixel
    assert min(box.x0 for box in texts) >= 0
    assert min(box[3] - box[2] for box in boxes_of(axis, "notes")) * figure.dpi > 2  # pixels


def test_more_drums_than_rows_share_one():
    score = band_song((33,), bars=1)
    for number in range(128):
        score.tracks[-1].notes.append(Note(10 * number, 10, number, 100))
    (axis,) = axes_of(score)
    labels = list(labels_of(axis))
    assert len(labels) == 1 + MOST_DRUM_ROWS
    assert labels[1] == "other drums"
    assert {"Kick", "Snare", "Closed hat"} < set(labels)
    assert len(boxes_of(axis, "drums")) == 8 + 128


def test_the_grid_has_a_name_for_every_drum_of_general_midi_in_the_order_of_a_kit():
    assert set(DRUM_NAMES) == set(range(27, 88))
    assert len(set(DRUM_NAMES.values())) == len(DRUM_NAMES)
    assert max(len(name) for name in DRUM_NAMES.values()) <= 15
    kit = ["Kick", "Snare", "Low floor tom", "High tom", "Closed hat", "Open hat", "Ride", "Crash"]
    assert [drum_name(number) for number in sorted((49, 51, 46, 42, 50, 41, 38, 36), key=drum_order)] == kit
    assert drum_name(5) == "note 5"
    assert sorted((5, 36, 34), key=drum_order) == [36, 34, 5]


@pytest.mark.slow
def test_a_picture_holds_as_many_bars_as_are_legible_and_counts_the_rest(tmp_path):
    score = band_song(range(0, 120, 8), bars=200)
    remarks = render_pianoroll(score, tmp_path / "long.png", "long")
    limits = shared_limits([roll_of(score)])
    plan = plan_lines(limits, 32.0, 40.0)
    drawn = int(plan.span * plan.lines / 4)
    assert remarks == [f"the first {drawn} of its 200 bars are drawn"]
    assert 32 <= drawn < 200
    axes = axes_of(score)
    assert axes[-1].get_xlabel() == f"{200 - drawn} more bars: not drawn"
    assert pianoroll_figure([("", roll_of(score))]).get_figheight() <= 42
    assert max(box[1] for box in boxes_of(axes[-1], "notes")) <= 4 * drawn


def test_a_short_rest_of_bars_makes_no_line_of_its_own():
    assert len(axes_of(band_song(bars=8))) == 1
    assert len(axes_of(band_song(bars=9))) == 1
    assert len(axes_of(band_song(bars=10))) == 2


def test_a_bar_longer_than_a_line_is_broken():
    score = band_song((0, 33), bars=40, drums=False)
    score.time_signatures = [TimeSignature(0, 60, 1)]
    axes = axes_of(score)
    assert len(axes) > 1
    assert sum(len(boxes_of(axis, "heads")) for axis in axes) == 320


def test_names_that_are_formulas_or_in_other_scripts_are_drawn(tmp_path):
    names = ("$x_1$ $", "二泉映月", "a very long name of a track that nobody can read in a narrow place, at all, ever")
    score = band_song(names=names)
    render_pianoroll(score, tmp_path / "names.png", "$x")
    assert (tmp_path / "names.png").stat().st_size > 5000
    labels = labels_of(axes_of(score)[0])
    assert "$x_1$ $" in labels
    assert max(len(line) for text in axes_of(score)[0].get_yticklabels() for line in text.get_text().split("\n")) <= 18


def test_a_song_without_notes_is_refused_with_lanes_too():
    with pytest.raises(DataError, match="no notes"):
        shared_limits([roll_of(Score(480))])
    score = Score(480)
    score.tracks.append(Track(is_drum=True))
    with pytest.raises(DataError, match="no notes"):
        shared_limits([roll_of(score)])
