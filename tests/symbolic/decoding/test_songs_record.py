"""What several records say of their songs together, and the instruments of a piece."""

from __future__ import annotations

import pytest
from bands import band

from musiclora.symbolic.decoding.songs_record import (
    describe_instruments,
    merge_songs_records,
    programs_in,
    recorded_programs,
    songs_instruments,
)

LOUD = {"33": [90, 80, 70]}


def test_programs_of_scores_are_those_with_notes():
    score = band()
    score.tracks[0].notes = []
    assert programs_in([score]) == [-1, 25, 33, 48]
    assert programs_in([]) == []


def test_records_are_merged():
    first = {"notes_at_once": 3, "instruments": [-1, 0], "loudness": LOUD}
    second = {"notes_at_once": 5, "instruments": [0, 33]}
    assert merge_songs_records([first, second]) == {"notes_at_once": 5, "instruments": [-1, 0, 33], "loudness": LOUD}
    assert merge_songs_records([first, {}]) == {"loudness": LOUD}


@pytest.mark.parametrize("damaged", [None, "piano", [128], [-2], [True], [1.0], {"0": 1}])
def test_a_record_without_sound_instruments_says_nothing(damaged):
    assert recorded_programs([{"instruments": [0]}, {"instruments": damaged}]) == frozenset()


def test_a_piece_has_the_instruments_of_the_songs_and_of_what_is_given():
    assert songs_instruments([-1, 33]) == {-1, 33}
    assert songs_instruments([-1, 33, 70], band()) == {-1, 0, 25, 33, 48, 70}
    assert songs_instruments([]) is None
    assert songs_instruments([-1, *range(15)]) == {-1, *range(15)}
    assert songs_instruments(range(16)) is None


def test_the_instruments_are_named():
    said = describe_instruments([33, -1])
    assert said == (
        "instruments: those of the training songs (Drums, Electric Bass (finger)); --instruments any draws from all"
    )
