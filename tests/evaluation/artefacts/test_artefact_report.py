"""Artefacts in reports: the sentence, the picture and the table."""

from __future__ import annotations

import re

import numpy as np
from artefact_files import measured
from require import require

from musiclora.evaluation.artefacts.compare import compare_artefacts
from musiclora.evaluation.artefacts.plot import artefact_figure
from musiclora.evaluation.artefacts.section import artefact_section, describe_artefacts

require("matplotlib")
REFERENCE = measured([-60.0, -58.0, -61.0, -59.0, -60.5])


def compared(**sets):
    return compare_artefacts({"reference": REFERENCE, **sets})


def test_the_sentence_counts_the_files_and_names_the_measures():
    made = [*measured([-60.0, -20.0]), *measured([-59.0], clicks_per_minute=80.0)]
    assert describe_artefacts(compared(generated=made)) == (
        "2 of 3 generated clips lie outside what the recordings show: clicks a minute in 1, noise floor in 1"
    )
    assert describe_artefacts(compared(generated=made[:1])).startswith("none of 1 generated clips")


def test_too_few_recordings_tell_nothing():
    found = compare_artefacts({"generated": measured([-20.0]), "reference": REFERENCE[:3]})
    assert "too few recordings" in describe_artefacts(found)
    assert all(axis.get_title(loc="right") == "" for axis in artefact_figure(found).axes)


def test_the_picture_has_a_row_of_points_for_each_set_and_shades_the_range():
    found = compared(generated=measured([-60.0, -20.0]), baseline=measured([-30.0]))
    figure = artefact_figure(found, 1, {"reference": "recordings", "baseline": "base", "generated": "adapted"})
    assert [axis.get_title(loc="left").partition(",")[0] for axis in figure.axes] == [
        "clicks a minute",
        "noise floor",
        "energy above 10 kHz",
        "clipped samples",
        "silence",
    ]
    floor = figure.axes[1]
    assert [label.get_text() for label in floor.get_yticklabels()] == ["adapted", "base", "recordings"]
    points = [line for line in floor.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in points] == [2, 1, 5]
    assert floor.get_title(loc="right") == "outside: 1 above of 2"
    assert floor.patches[0].get_x() == found.expected["noise_floor_db"].low
    low, high = floor.get_xlim()
    drawn = np.concatenate([np.asarray(line.get_xdata(), float) for line in points])
    assert low < drawn.min() < drawn.max() < high


def test_a_measure_that_nothing_was_measured_in_has_no_plot():
    low = {"rate": 16000, "high": None}
    found = compare_artefacts({"generated": measured([-60.0], **low), "reference": measured([-60.0] * 4, **low)})
    assert len([axis for axis in artefact_figure(found).axes if axis.axison]) == 4


def test_the_section_has_pictures_for_wide_and_narrow_pages_a_description_and_the_table():
    html = artefact_section(compared(generated=measured([-20.0])))
    assert html.count("data:image/png;base64,") == 2
    (alt,) = re.findall('alt="([^"]*)"', html)
    assert "noise floor, dB -60.0 (-61.0 to -58.0), -20.0" in alt
    assert "1 above of 1" in html
