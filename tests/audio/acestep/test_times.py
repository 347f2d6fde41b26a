"""Training times of turbo, base and sft, and the objective that a checkpoint asks for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from acestep_toys import SMALL

from musiclora.audio.acestep.times import LargerLogitNormal, TurboTimes, objective_of, shift_time


def test_turbo_trains_at_the_eight_times_of_its_inference() -> None:
    # As the specification lists them, in ACE-Step's own time, which is one minus ours.
    listed = [1, 0.9545, 0.9, 0.8333, 0.75, 0.6429, 0.5, 0.3]
    np.testing.assert_allclose(1 - TurboTimes().values, listed, atol=5e-5)
    drawn = TurboTimes().draw(np.random.default_rng(0), 8000)
    values, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_allclose(values, TurboTimes().values)
    assert counts.min() > 850  # of 1,000 expected; five standard deviations


def test_turbo_quantiles_walk_through_all_times() -> None:
    found = [TurboTimes().at((i + 0.5) / 8) for i in range(8)]
    np.testing.assert_allclose(found, TurboTimes().values)
    assert TurboTimes().at(0.999999) == found[-1]


def test_base_takes_the_noisier_of_two_logit_normal_draws() -> None:
    times = LargerLogitNormal(-0.4, 1.0)
    drawn = times.draw(np.random.default_rng(1), 40_000)
    rng = np.random.default_rng(2)
    first, second = 1 / (1 + np.exp(-(-0.4 + rng.standard_normal((2, 40_000)))))
    expected = np.sort(1 - np.maximum(first, second))
    # Kolmogorov-Smirnov distance of two samples of this size: above 0.0137 with a probability of 0.1 %.
    grid = np.linspace(0.01, 0.99, 99)
    found, wanted = (np.searchsorted(np.sort(x), grid) / 40_000 for x in (drawn, expected))
    assert np.abs(found - wanted).max() < 0.0137


@pytest.mark.parametrize("share", [0.02, 0.25, 0.5, 0.9])
def test_quantiles_are_those_of_the_draws(share: float) -> None:
    times = LargerLogitNormal(-0.4, 1.0)
    drawn = times.draw(np.random.default_rng(3), 100_000)
    assert (drawn < times.at(share)).mean() == pytest.approx(share, abs=0.005)


def test_shift_moves_towards_noise_and_keeps_the_ends() -> None:
    assert shift_time(0.5, 3.0) == pytest.approx(0.75)
    assert (shift_time(0.0, 3.0), shift_time(1.0, 3.0)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "drop", "warned"),
    [
        ({"is_turbo": True, "model_version": "turbo"}, 0.0, False),
        ({"is_turbo": False, "model_version": "turbo"}, 0.0, False),
        ({"is_turbo": False, "model_version": "base"}, 0.15, False),
        ({"is_turbo": False, "model_version": "sft"}, 0.15, False),
        ({"is_turbo": False, "model_version": None}, 0.15, True),
        ({"is_turbo": False, "model_version": "v16"}, 0.15, True),
    ],
    ids=["turbo", "turbo by version", "base", "sft", "no version", "unknown version"],
)
def test_the_objective_is_recognised_from_the_configuration(
    changes: dict[str, object], drop: float, warned: bool
) -> None:
    objective = objective_of(dataclasses.replace(SMALL, **changes))  # type: ignore[arg-type]
    assert objective.drop_rate == drop
    assert isinstance(objective.times, TurboTimes if drop == 0 else LargerLogitNormal)
    assert bool(objective.note) == warned
