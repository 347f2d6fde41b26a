"""The numpy sampler against cases computed by hand and against frequencies."""

from __future__ import annotations

import numpy as np
import pytest

from musiclora.backends.base import ClosedKeys, SamplingSpec
from musiclora.sampling import OpenKeys, decision_margin, sample_token, uniforms

PROBABILITIES = np.array([0.1, 0.4, 0.2, 0.3], np.float32)  # the order is 1, 3, 2, 0
LOGITS = np.log(PROBABILITIES)


@pytest.mark.parametrize(
    ("spec", "u", "token"),
    [
        (SamplingSpec(), 0.0, 1),
        (SamplingSpec(), 0.39, 1),
        (SamplingSpec(), 0.41, 3),
        (SamplingSpec(), 0.71, 2),
        (SamplingSpec(), 0.91, 0),
        (SamplingSpec(), 1 - 2**-24, 0),
        (SamplingSpec(top_k=2), 0.56, 1),
        (SamplingSpec(top_k=2), 0.58, 3),
        (SamplingSpec(top_p=0.5), 0.99, 3),
        (SamplingSpec(top_p=0.3), 0.99, 1),
        (SamplingSpec(top_p=0.75), 0.99, 2),
        (SamplingSpec(top_k=3, top_p=0.5), 0.99, 3),
        (SamplingSpec(top_k=1, top_p=1.0), 0.99, 1),
        (SamplingSpec(temperature=0), 0.99, 1),
    ],
    ids=str,
)
def test_sample_token_takes_the_first_token_whose_share_exceeds_the_draw(spec, u, token):
    assert sample_token(LOGITS, u, spec) == token


def test_sample_token_at_a_tie_orders_by_the_lower_id():
    tied = np.zeros(4, np.float32)
    assert [sample_token(tied, u, SamplingSpec()) for u in (0.1, 0.3, 0.6, 0.9)] == [0, 1, 2, 3]
    assert sample_token(tied, 0.9, SamplingSpec(temperature=0)) == 0


def test_sample_token_never_takes_a_token_that_is_not_allowed():
    allowed = np.array([True, False, True, False])
    drawn = {sample_token(LOGITS, float(u), SamplingSpec(), allowed) for u in uniforms(1, 200, 1)[:, 0]}
    assert drawn == {0, 2}
    # shares of the two that remain are 2/3 and 1/3
    assert sample_token(LOGITS, 0.66, SamplingSpec(), allowed) == 2
    assert sample_token(LOGITS, 0.67, SamplingSpec(), allowed) == 0


@pytest.mark.parametrize("bad", [np.full(3, -np.inf), np.array([0, np.nan, 1])], ids=["nothing", "nan"])
def test_sample_token_refuses_logits_that_allow_no_draw(bad):
    with pytest.raises(ValueError, match="nothing can be drawn"):
        sample_token(bad.astype(np.float32), 0.5, SamplingSpec())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0], ids=str)
def test_sample_token_frequencies_follow_the_tempered_softmax(temperature):
    expected = PROBABILITIES ** (1 / temperature)
    expected /= expected.sum()
    draws = [sample_token(LOGITS, float(u), SamplingSpec(temperature)) for u in uniforms(3, 20_000, 1)[:, 0]]
    # three standard deviations of a frequency over 20,000 draws are 0.0106
    assert np.bincount(draws, minlength=4) / 20_000 == pytest.approx(expected, abs=0.011)


def test_uniforms_of_a_piece_do_not_depend_on_count_steps_or_batch():
    whole = uniforms(7, 50, 5)
    assert whole.dtype == np.float32
    assert whole.shape == (50, 5)
    assert np.array_equal(whole[:20, 3:], uniforms(7, 20, 2, first=3))
    assert not np.array_equal(whole[:, 0], whole[:, 1])
    assert not np.array_equal(whole, uniforms(8, 50, 5))
    assert whole.min() >= 0
    assert whole.max() < 1


@pytest.mark.parametrize(
    ("spec", "u", "margin"),
    [
        (SamplingSpec(), 0.395, 0.005),
        (SamplingSpec(), 0.72, 0.02),
        (SamplingSpec(top_p=0.405), 0.1, 0.005),
        (SamplingSpec(temperature=0), 0.1, 0.1),
    ],
    ids=["end of the share", "start of the share", "top-p cut", "greedy"],
)
def test_decision_margin_is_the_distance_to_another_token(spec, u, margin):
    assert decision_margin(LOGITS, u, spec) == pytest.approx(margin, abs=1e-6)


def test_sample_token_agrees_under_noise_smaller_than_the_margin():
    rng = np.random.default_rng(0)
    for u in uniforms(5, 300, 1)[:, 0]:
        logits = rng.normal(0, 2, 40).astype(np.float32)
        spec = SamplingSpec(0.9, 12, 0.9)
        noisy = logits + rng.uniform(-1e-4, 1e-4, 40).astype(np.float32)
        # noise of 1e-4 in the logits moves a probability, and a sum of them, by at most 4e-4 after renormalising
        if decision_margin(logits, float(u), spec) > 4e-4:
            assert sample_token(logits, float(u), spec) == sample_token(noisy, float(u), spec)


# Token 0 begins an onset, 1 and 2 choose an instrument of two notes, 3 and 4 are the notes.
BAND = ClosedKeys(
    keys=np.array([-1, 4, 4, 0, 1]),
    shifted=np.array([0, 0, 0, 1, 1], bool),
    opens=np.array([1, 0, 0, 0, 0], bool),
    offsets=np.array([-1, 0, 2, -1, -1]),
    first=np.array([0, 0, 0, 0, 1]),
    last=np.array([0, 0, 0, 1, 2]),
    limit=3,
    open=np.ones(5, bool),
)


@pytest.mark.parametrize(
    ("drawn", "allowed"),
    [
        ([], [0, 1, 2, 3, 4]),
        ([3], [0, 1, 2, 4]),
        ([3, 2], [0, 1, 2, 3, 4]),
        ([3, 2, 3, 1], [0, 1, 2, 4]),
        ([3, 4, 2, 3], [0]),
        ([3, 4, 2, 3, 0], [0, 1, 2, 3, 4]),
    ],
    ids=str,
)
def test_a_note_of_an_instrument_sounds_once_until_the_keys_are_opened(drawn, allowed):
    row = OpenKeys(BAND)
    for token in drawn:
        row.follow(token)
    assert np.flatnonzero(row.allowed()).tolist() == allowed
