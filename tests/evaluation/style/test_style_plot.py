"""Picture and section of the style card."""

from __future__ import annotations

import numpy as np
import pytest

from musiclora.evaluation.style.compare import compare_styles
from musiclora.evaluation.style.events import piece_events
from musiclora.evaluation.style.plot import style_figure
from musiclora.evaluation.style.section import style_section


def tunes(seed, count, programs):
    rng = np.random.default_rng(seed)
    return [
        piece_events(
            f"{seed}-{i}",
            [(0.5 * k, 0.5, 60 + int(rng.integers(0, 12)), 80, programs[k % len(programs)], 0) for k in range(64)],
            4.0 * np.arange(8),
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def card():
    return compare_styles(tunes(1, 8, [0, -1]), tunes(2, 5, range(20)), tunes(3, 5, [0]))


def test_each_feature_has_a_plot_with_its_scores(card):
    figure = style_figure(card)
    shown = {axis.get_title("left"): axis for axis in figure.axes if axis.axison}
    assert list(shown) == [row.feature.title for row in card.rows]
    for row in card.rows:
        title = shown[row.feature.title].get_title("right")
        assert title == f"overlap {row.generated.overlap.value:.2f}, base {row.baseline.overlap.value:.2f}"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["artist's songs", "base", "generated"]


def test_bars_hold_the_shares_and_many_instruments_are_summed(card):
    axes = {axis.get_title("left"): axis for axis in style_figure(card, columns=1).axes}
    classes = card.rows[0].values["reference"]
    heights = [bar.get_height() for bar in axes["pitch class"].patches]
    assert np.allclose(heights, 100 * classes[: len(heights)])
    labels = [text.get_text() for text in axes["instruments"].get_yticklabels()]
    assert labels[0] in ("Acoustic Grand Piano", "Drums")
    assert labels[-1] == "others"
    assert len(labels) == 9


def test_numbers_are_points_of_each_piece(card):
    axes = {axis.get_title("left"): axis for axis in style_figure(card).axes}
    points = [line.get_xdata() for line in axes["range"].lines if line.get_marker() == "o"]
    assert sorted(map(len, points)) == [5, 5, 8]


def test_the_section_says_what_the_figures_say(card):
    html = style_section(card)
    assert card.verdict()[0][1:] in html
    assert html.count("<tr>") == len(card.rows) + 2
    assert "<picture><source media=" in html
    assert "data:image/png" in html
    assert style_section(None) == ""
