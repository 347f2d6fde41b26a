"""Verdicts: only where the songs are many enough, unseen, and known to the base; intervals are over recordings."""

from __future__ import annotations

import math

import pytest

from musiclora.backends.base import LossSum
from musiclora.evaluation.scores import LEAST_SONGS, FlowScore, Gain, Score, flow_gain, token_gain
from musiclora.evaluation.verdict import BaseCheck, Evaluation, judge_adapter, judge_base

CLEAR = Gain(0.8, 0.6, 1.0, 40)
KNOWN = BaseCheck(2.0, math.log(285))


def test_one_held_out_song_gets_neither_interval_nor_verdict():
    # As reported: "nothing gained: ... the base, which knows this style", with an interval "over 1 songs".
    gain = token_gain([LossSum(5.83 * 100, 100)], [LossSum(5.80 * 100, 100)], [30])
    assert (gain.low, gain.high, gain.songs) == (None, None, 1)
    assert gain.mean == pytest.approx(0.03 * 100 / math.log(2) / 30)
    verdict = judge_adapter(gain, KNOWN)
    assert verdict.line().startswith("no verdict, too few songs: 1 song ")
    assert "1 songs" not in gain.describe() + verdict.line()
    assert "95 %" not in gain.describe()


@pytest.mark.parametrize("songs", [2, LEAST_SONGS - 1, LEAST_SONGS])
def test_a_verdict_needs_six_songs(songs):
    before, after = [LossSum(700, 100)] * songs, [LossSum(600, 100)] * songs
    gain = token_gain(before, after, [30] * songs)
    assert judge_adapter(gain, KNOWN).style == ("gained" if songs >= 6 else "flat")
    assert (gain.low is None) == (songs < 6)


def test_a_base_worse_than_a_guess_is_never_called_gained():
    check = BaseCheck(5.83, math.log(285))  # ln 285 = 5.65
    assert not check.is_known
    text = judge_adapter(CLEAR, check).line()
    assert text.startswith("no verdict, the base does not know these songs")
    assert "over all songs scored its loss is 5.830, a guess has 5.652" in text
    assert "adapted" not in text  # its loss may be over fewer songs: of training runs, the held-out ones
    assert "5.652" in text
    assert "gained" not in text
    audio = judge_adapter(Gain(2.2, 2.0, 2.4, 9, "loss"), BaseCheck(291.6, 7.7), pieces="recordings")
    assert (audio.style, "gained" in audio.line()) == ("flat", False)


@pytest.mark.parametrize(
    ("gain", "style", "words"),
    [
        (CLEAR, "gained", "gained"),
        (Gain(0.02, -0.1, 0.1, 40), "flat", "nothing gained: on held-out songs the adapter is no better than the base"),
        (Gain(-0.5, -0.7, -0.2, 40), "lost", "worse than the base on held-out songs: train for fewer steps"),
        (None, "flat", "no songs were held out"),
    ],
    ids=["gained", "nothing", "lost", "none held out"],
)
def test_a_verdict_over_many_songs_is_the_interval_s(gain, style, words):
    verdict = judge_adapter(gain, KNOWN)
    assert verdict.style == style
    assert words in verdict.line()
    assert "knows this style" not in verdict.line()


def test_songs_that_were_trained_on_give_no_verdict():
    score = Score(1.0, math.e, 4.0, 900, 300)
    result = Evaluation("torch", score, Score(2.0, 7.4, 6.0, 900, 300), CLEAR, 12, (), KNOWN, trained_on=12)
    text = "\n".join(result.lines())
    assert "the adapter was trained on all of them" in text
    assert "no verdict, the adapter was trained on these songs" in text
    assert not any(line.startswith("gained") for line in result.lines())
    assert result.as_json()["verdict"]["style"] == "flat"


def test_where_some_songs_were_trained_on_the_others_are_judged():
    score = FlowScore(1.0, 900)
    result = Evaluation("torch", score, FlowScore(2.0, 900), CLEAR, 50, (), KNOWN, 10, "recordings")
    assert "trained on 10 of the 50 recordings; the gain is over the other 40" in "\n".join(result.lines())
    assert result.verdict.style == "gained"


def test_the_interval_is_over_recordings_not_over_their_segments():
    # Six segments of one recording were printed as six songs.
    before = [LossSum(10.0 + i, 10) for i in range(6)]
    after = [LossSum(9.0 + i, 10) for i in range(6)]
    one = flow_gain(before, after, ["a.wav"] * 6)
    assert (one.songs, one.low) == (1, None)
    assert "over 1 recording, too few for an interval" in one.describe()
    names = [f"{i // 3}.wav" for i in range(18)]
    many = flow_gain(before * 3, after * 3, names)
    assert (many.songs, many.mean) == (6, pytest.approx(0.1))
    assert (many.low, many.high) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("mean", "low", "high", "text"),
    [
        (2.127, 2.0, 2.3, "loss lowered by 2.127 (95 % over 8 recordings: 2.000 to 2.300)"),
        (-0.5, -0.7, -0.2, "loss raised by 0.500 (95 % over 8 recordings: 0.200 to 0.700)"),
    ],
)
def test_a_change_of_loss_is_worded_as_one(mean, low, high, text):
    # "gain 2.127 loss" could be read as a loss that grew.
    assert Gain(mean, low, high, 8, "loss").describe() == text


def test_a_new_base_is_named_where_it_is_still_no_better_than_a_guess():
    fresh = BaseCheck(5.66, 5.65)
    assert "does not know this music yet" in judge_base(fresh, 5.6).line()
    assert judge_base(fresh, 2.0) is None
    assert judge_base(None, 2.0) is None


def test_near_duplicates_count_once_in_the_interval_over_songs():
    # Six versions of one tune were printed as six songs, with an interval that was too narrow.
    before = [LossSum(10.0 + i, 10) for i in range(6)]
    after = [LossSum(9.0 + i, 10) for i in range(6)]
    one = token_gain(before, after, [30] * 6, [3] * 6)
    assert (one.songs, one.low, one.mean) == (1, None, token_gain(before, after, [30] * 6).mean)
    many = token_gain(before * 2, after * 2, [30] * 12, [i // 2 for i in range(12)])
    assert (many.songs, many.counted) == (6, "6 songs")
    score = Score(1.0, math.e, 4.0, 900, 300)
    result = Evaluation("torch", score, Score(2.0, 7.4, 6.0, 900, 300), many, 14, (), KNOWN, 2)
    assert "near duplicates count once: 12 songs are 6 different ones" in result.lines()
