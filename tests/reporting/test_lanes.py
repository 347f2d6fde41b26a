"""Lanes of a band's piano roll: what shares one, and their colours."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from render_helpers import band_song
from roll_boxes import axes_of, boxes_of
from symusic import Note

from musiclora.music.instruments import instrument_name
from musiclora.reporting.band_roll import INK
from musiclora.reporting.lanes import COLOURS, MOST_LANES, list_instruments, shared_limits
from musiclora.reporting.roll import roll_of


def test_lanes_that_touch_never_have_one_colour():
    rng = np.random.default_rng(0)
    for _ in range(50):
        programs = rng.choice(128, rng.integers(2, 16), replace=False).tolist()
        lanes = shared_limits([roll_of(band_song(programs, bars=1))]).lanes
        assert len({lane.colour for lane in lanes}) == min(len(lanes), len(COLOURS))
        assert all(a.colour != b.colour for a, b in pairwise(lanes))


def test_names_of_tracks_come_first_and_a_name_that_all_share_is_none():
    named = band_song((73, 0, 0, 33), names=("  Lead\nvoice ", "Left", "Right"), drums=False)
    assert [lane.label for lane in shared_limits([roll_of(named)]).lanes] == [
        "Lead voice",
        "Left",
        "Right",
        "Electric Bass (finger)",
    ]
    shared = band_song((73, 0), names=("musiclora", "musiclora"), drums=False)
    assert list_instruments(roll_of(shared)) == ["Flute", "Acoustic Grand Piano"]
    alone = band_song((0,), names=("musiclora",), drums=False)
    limits = shared_limits([roll_of(alone), roll_of(shared)])
    assert [lane.label for lane in limits.lanes] == ["Flute", "Acoustic Grand Piano"]


def test_a_track_that_changes_its_instrument_has_a_lane_for_each_with_both_names():
    score = band_song((73, 0, 48, 45, 48), names=("Flute", "Piano", "Violin 1", "Violin 1", "Violin 2"))
    labels = [lane.label for lane in shared_limits([roll_of(score)]).lanes]
    assert labels == [
        *("Flute", "Violin 1 (String Ensemble 1)", "Violin 2"),
        *("Violin 1 (Pizzicato Strings)", "Piano"),
    ]


def test_instruments_of_one_family_stand_in_the_order_of_the_file():
    score = band_song((49, 48, 42, 40, 33, 73))
    labels = [lane.label for lane in shared_limits([roll_of(score)]).lanes]
    assert labels[:3] == ["Flute", "String Ensemble 2", "String Ensemble 1"]
    assert labels[3:] == ["Cello", "Violin", "Electric Bass (finger)"]


def test_where_programs_and_names_are_too_many_tracks_of_one_name_share_a_lane():
    names = [f"Player {number // 2}" for number in range(20)]
    lanes = shared_limits([roll_of(band_song(range(20), bars=1, names=names))]).lanes
    assert sorted(lane.label for lane in lanes) == sorted(set(names))
    assert all(len(lane.parts) == 2 for lane in lanes)


def test_many_named_tracks_of_one_instrument_have_lanes():
    names = [f"voice {number}" for number in range(len(COLOURS) + 1)]
    few, many = (roll_of(band_song([52] * n, names=names[:n], drums=False)) for n in (len(COLOURS), len(COLOURS) + 1))
    assert not shared_limits([few]).has_lanes
    assert [lane.label for lane in shared_limits([many]).lanes] == names


def test_a_track_without_a_name_shares_the_lane_of_its_program():
    score = band_song((0, 0, 33), names=("Keys",), drums=False)
    limits = shared_limits([roll_of(score)])
    assert [lane.label for lane in limits.lanes] == ["Keys", "Electric Bass (finger)"]
    (axis,) = axes_of(score)
    assert len([box for box in boxes_of(axis, "notes") if box[4] == limits.lanes[0].colour]) == 32


def test_forty_tracks_of_few_programs_are_put_together_by_program():
    score = band_song([0, 33] * 20, names=[f"take {number}" for number in range(40)], bars=1)
    limits = shared_limits([roll_of(score)])
    assert [lane.label for lane in limits.lanes] == [instrument_name(0), instrument_name(33)]
    assert sum(len(lane.parts) for lane in limits.lanes) == 40


def test_of_forty_instruments_those_that_play_least_share_a_lane():
    score = band_song(range(40), bars=1)
    for note in range(5):
        for number in range(14):
            score.tracks[number].notes.append(Note(480 * 3, 100, 40 + note, 60))
    limits = shared_limits([roll_of(score)])
    assert len(limits.lanes) == MOST_LANES - 1
    assert limits.lanes[-1].label == "26 others"
    assert {lane.label for lane in limits.lanes[:-1]} == {instrument_name(number) for number in range(14)}
    (axis,) = axes_of(score)
    assert len(boxes_of(axis, "notes")) == 40 * 4 + 14 * 5  # no note is lost


# Matrices of Machado, Oliveira and Fernandes (2009) for full protanopia, deuteranopia and tritanopia, in linear RGB.
SIGHT = {
    "full": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.119192, 0.9503041]]
)


def linear(colour: str) -> np.ndarray:
    channels = np.array(to_rgb(colour))
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Convert linear RGB to CIE L*a*b*."""
    ratio = TO_XYZ @ np.clip(rgb, 0, 1) / (TO_XYZ @ np.ones(3))
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_differ_for_every_kind_of_colour_blindness(sight):
    seen = [lab(SIGHT[sight] @ linear(colour)) for colour in (*COLOURS, INK)]
    # 2.3 is a difference that is just noticed; the palette before had 4 here
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 20


def test_colours_stand_out_from_a_light_page():
    for colour in (*COLOURS, INK):
        assert 1.05 / (TO_XYZ[1] @ linear(colour) + 0.05) >= 3  # contrast of graphical objects by WCAG 2.1
