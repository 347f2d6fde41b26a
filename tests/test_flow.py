"""Rectified-flow sampling: Euler's method on the grid of DiffRhythm."""

from __future__ import annotations

import numpy as np
import pytest
import tolerance

from musiclora.errors import ConfigError
from musiclora.flow import sample


class Field:
    """Velocity field given as a function of state and time."""

    def __init__(self, function):
        self.function, self.times, self.guidance = function, [], []

    def velocity(self, x, time, prepared, guidance):
        self.times.append(time)
        self.guidance.append(guidance)
        return self.function(x, time).astype(np.float32)


@pytest.fixture
def noise():
    return np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)


def test_steps_are_grid_points_and_the_last_is_never_evaluated(noise):
    field = Field(lambda x, time: x * 0)
    assert np.array_equal(sample(field, None, noise, 5, 4.0), noise)
    assert field.times == [0.0, 0.25, 0.5, 0.75]
    assert field.guidance == [4.0] * 4


def test_the_straight_way_to_the_data_arrives_there(noise):
    data = np.ones_like(noise) * np.arange(3, dtype=np.float32)
    found = sample(Field(lambda x, time: data - noise), None, noise, 4, 0.0)
    # Three updates of a product and a sum each.
    tolerance.assert_near(found, data, tolerance.rounding(3 * 2, np.abs(noise).max() + data.max()))


@pytest.mark.parametrize("steps", [2, 3, 9])
def test_every_update_takes_the_velocity_at_its_beginning(noise, steps):
    count = steps - 1
    found = sample(Field(lambda x, time: np.full_like(x, time)), None, noise, steps, 0.0)
    left_sum = sum(i / count for i in range(count)) / count
    tolerance.assert_near(found - noise, left_sum, tolerance.rounding(2 * count + 1, np.abs(noise).max() + 1))
    growth = sample(Field(lambda x, time: x), None, noise, steps, 0.0)
    np.testing.assert_allclose(growth, noise * (1 + 1 / count) ** count, rtol=tolerance.rounding(3 * count))


def test_known_frames_are_put_back_after_the_last_update_only(noise):
    seen = []

    def field(x, time):
        seen.append(x.copy())
        return np.ones_like(x)

    known, mask = np.full_like(noise, 7), np.zeros((2, 5), bool)
    mask[0, 1:3] = mask[1, 4] = True
    found = sample(Field(field), None, noise, 3, 0.0, known, mask)
    assert (found[~mask] == 7).all()
    tolerance.assert_near(found[mask], noise[mask] + 1, tolerance.rounding(2 * 2, np.abs(noise).max() + 1))
    assert not (seen[1] == 7).any()


def test_the_noise_that_was_given_stays_as_it_is(noise):
    before = noise.copy()
    sample(Field(lambda x, time: x), None, noise, 4, 0.0)
    assert np.array_equal(noise, before)


def test_one_grid_point_and_a_mask_alone_are_refused(noise):
    with pytest.raises(ConfigError, match="2 grid points"):
        sample(Field(lambda x, time: x), None, noise, 1, 0.0)
    with pytest.raises(ConfigError, match="mask"):
        sample(Field(lambda x, time: x), None, noise, 3, 0.0, noise)
