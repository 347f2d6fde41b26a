"""Bar lines: by the score's own metres, each a beginning of a bar."""

from __future__ import annotations

import pytest
from symusic import Score, TimeSignature

from musiclora.music.bars import bar_lines


def score_with(*metres: tuple[int, int, int], quarter: int = 480) -> Score:
    score = Score(quarter)
    for metre in metres:
        score.time_signatures.append(TimeSignature(*metre))
    return score


@pytest.mark.parametrize(
    ("metres", "stop", "quarters"),
    [
        ([], 9, [0, 4, 8, 12]),
        ([], 8, [0, 4, 8]),
        ([], 0, [0]),
        ([(0, 3, 4), (6, 6, 8)], 8, [0, 3, 6, 9]),
        ([(0, 3, 4), (4, 2, 4)], 6, [0, 3, 4, 6]),  # a metre inside a bar ends it
        ([(2, 3, 4)], 6, [0, 2, 5, 8]),
        ([(-5, 2, 4)], 3, [0, 2, 4]),
        ([(4, 7, 8)], 8, [0, 4, 7.5, 11]),
        ([(6, 3, 4)], 5, [0, 4, 6]),
        ([(3, 2, 4), (3.5, 1, 4)], 5, [0, 3, 3.5, 4.5, 5.5]),
    ],
)
def test_bar_lines_go_from_zero_to_the_first_at_or_after_the_end(metres, stop, quarters):
    score = score_with(*[(round(480 * time), above, below) for time, above, below in metres])
    assert bar_lines(score, 480 * stop) == [round(480 * line) for line in quarters]


def test_impossible_metres_are_passed_over():
    score = score_with((0, 0, 4), (480, 3, 0), (960, 3, 4))
    assert bar_lines(score, 2000) == [0, 960, 2400]


def test_a_bar_shorter_than_a_tick_still_ends():
    assert bar_lines(score_with((0, 1, 64), quarter=4), 3) == [0, 1, 2, 3]
