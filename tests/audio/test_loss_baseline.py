"""Linear baseline of the flow-matching loss, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from musiclora.audio.loss_baseline import baseline_loss


def batch(time, variance=1.0, seed=0, frames=4000):
    rng = np.random.default_rng(seed)
    return {
        "latents": (rng.standard_normal((1, frames, 4)) * variance**0.5).astype(np.float32),
        "noise": rng.standard_normal((1, frames, 4)).astype(np.float32),
        "time": np.array([time], np.float32),
        "valid": np.ones((1, frames), bool),
    }


@pytest.mark.parametrize("time", [0.1, 0.5, 0.8])
def test_the_baseline_for_white_latents_is_the_best_that_is_possible(time):
    # v and x_t are jointly normal: the residual variance is var v - cov^2 / var x_t = 1 / (t^2 + (1 - t)^2).
    expected = 1 / (time**2 + (1 - time) ** 2)
    assert baseline_loss([batch(time)]) == pytest.approx(expected, rel=0.02)  # 16,000 values: 1.1 % a deviation


@pytest.mark.parametrize("variance", [0.3, 1.0, 4.0])
def test_no_other_multiple_of_the_noisy_latents_does_better(variance):
    one = batch(0.3, variance)
    noisy, wanted = 0.3 * one["latents"] + 0.7 * one["noise"], one["latents"] - one["noise"]
    slope = (noisy * wanted).sum() / np.square(noisy).sum()
    assert baseline_loss([one]) == pytest.approx(np.square(wanted - slope * noisy).mean(), rel=1e-3)


def test_frames_that_are_not_valid_do_not_count():
    whole = batch(0.4)
    longer = {**whole, "latents": np.pad(whole["latents"], ((0, 0), (0, 50), (0, 0)))}
    longer["noise"] = np.pad(whole["noise"], ((0, 0), (0, 50), (0, 0)), constant_values=9)
    longer["valid"] = np.pad(whole["valid"], ((0, 0), (0, 50)))
    assert baseline_loss([longer]) == pytest.approx(baseline_loss([whole]), rel=1e-6)
