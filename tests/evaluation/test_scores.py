"""Scores: infinite and undefined losses, and nothing to score, are errors."""

from __future__ import annotations

import math

import pytest

from musiclora.backends.base import LossSum
from musiclora.errors import DataError
from musiclora.evaluation.scores import Gain, flow_score, song_losses, token_score


class Model:
    """Model whose loss is the value in the batch."""

    def loss(self, batch):
        return LossSum(batch["value"], 3.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_song_whose_loss_is_not_finite_is_one_clear_error(value):
    batches = [[{"value": 1.0}], [{"value": 2.0}, {"value": value}]]
    with pytest.raises(DataError, match=r"the loss of song 2 of 2 is not finite: .* adapter at this strength"):
        song_losses(Model(), batches)
    assert song_losses(Model(), batches[:1]) == [LossSum(1.0, 3.0)]


def test_nothing_to_score_is_an_error_and_no_nan():
    with pytest.raises(DataError, match="nothing to score: 0 notes"):
        token_score(LossSum(1.0, 2.0), 0)
    with pytest.raises(DataError, match="nothing to score: 5 notes make 0 tokens"):
        token_score(LossSum(0.0, 0.0), 5)
    with pytest.raises(DataError, match="nothing to score"):
        flow_score(LossSum(0.0, 0.0), 4)


def test_a_gain_that_rounds_to_zero_has_no_sign():
    assert Gain(-0.0001, -0.0004, 0.2, 9).describe() == "gain 0.000 bits a note (95 % over 9 songs: 0.000 to 0.200)"
