"""Split, gain and copies as an adapter's record and card state them."""

from __future__ import annotations

from musiclora.evaluation.copies.calibration import Reference
from musiclora.evaluation.copies.samples import SampleCopies
from musiclora.evaluation.scores import Gain
from musiclora.training.outcome import RunOutcome

GAIN = Gain(0.5, 0.25, 0.75, 8, "bits a note", tuple((float(i), 9.0) for i in range(8)))
COPIES = SampleCopies((0, 7), 0, 0.0, Reference((6, 7, 8, 9), (0.0,) * 4, 50.0, True))


def test_the_record_has_the_gain_and_the_copies_and_no_figures_of_single_songs():
    record = RunOutcome((12, 8), "songs", GAIN, COPIES).record()
    assert record["held_out"] == 8
    assert record["gain"] == {"mean": 0.5, "low": 0.25, "high": 0.75, "songs": 8, "unit": "bits a note"}
    assert record["copies"] == COPIES.as_json()


def test_the_card_states_split_gain_and_copies():
    lines = RunOutcome((12, 8), "recordings", GAIN, COPIES).lines()
    assert lines == [
        "split: 12 recordings trained on, 8 held out",
        f"on the held-out recordings: {GAIN.describe()}",
        f"copying: {COPIES.line()}",
    ]


def test_while_a_run_lasts_the_split_is_all_that_is_known():
    outcome = RunOutcome((1, 0))
    assert outcome.lines() == ["split: 1 song trained on, 0 held out"]
    assert outcome.record() == {"held_out": 0}
    assert outcome.covers(10**9)
    assert not RunOutcome((1, 0), best_step=5).covers(6)
