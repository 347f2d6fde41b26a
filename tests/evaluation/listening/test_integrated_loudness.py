from __future__ import annotations

import math

import numpy as np
import pytest

from musiclora.evaluation.listening.loudness import (
    PEAK_LIMIT_DB,
    TARGET_LUFS,
    common_level,
    integrated_loudness,
    k_weighting,
    true_peak,
)

TOLERANCE_LU = 0.1  # EBU Tech 3341 allows this much to a meter


def sine(hertz: float, level_db: float, seconds: float, rate: int) -> np.ndarray:
    return 10 ** (level_db / 20) * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def test_the_filters_at_48_khz_are_those_of_the_standard():
    (shelf, shelf_poles), (high_pass, pass_poles) = k_weighting(48000)
    # BS.1770-4, tables 1 and 2; printed with 14 decimals
    np.testing.assert_allclose(shelf, [1.53512485958697, -2.69169618940638, 1.19839281085285], atol=1e-9)
    np.testing.assert_allclose(shelf_poles, [1, -1.69065929318241, 0.73248077421585], atol=1e-9)
    np.testing.assert_allclose(high_pass, [1, -2, 1])
    np.testing.assert_allclose(pass_poles, [1, -1.99004745483398, 0.99007225036621], atol=1e-9)


@pytest.mark.parametrize("rate", [44100, 48000])
def test_a_full_scale_sine_of_997_hz_in_one_channel_is_minus_3_01(rate):
    assert integrated_loudness(sine(997, 0, 5, rate)[None], rate) == pytest.approx(-3.01, abs=0.01)


@pytest.mark.parametrize(
    "parts",
    [[(-23, 20)], [(-36, 10), (-23, 60), (-36, 10)], [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)]],
    ids=["case 1: one level", "case 3: relative gate", "case 4: absolute gate"],
)
def test_the_stereo_signals_of_ebu_tech_3341_measure_minus_23(parts):
    audio = np.concatenate([sine(1000, level, seconds, 48000) for level, seconds in parts])
    assert integrated_loudness(np.stack([audio, audio]), 48000) == pytest.approx(-23.0, abs=TOLERANCE_LU)


def test_silence_and_less_than_a_block_have_no_loudness():
    assert integrated_loudness(np.zeros((1, 48000)), 48000) == -math.inf
    assert integrated_loudness(np.ones((1, 100)), 48000) == -math.inf


def test_true_peak_finds_a_maximum_between_the_samples():
    quarter = np.sin(np.pi / 2 * np.arange(4096) + np.pi / 4)  # every sample is 0.707 of the maximum
    assert np.abs(quarter).max() == pytest.approx(math.sqrt(0.5))
    assert true_peak(quarter) == pytest.approx(1.0, abs=0.03)


def test_the_common_level_falls_where_a_peak_would_clip():
    assert common_level([-30, -10], [0.1, 0.5]) == TARGET_LUFS
    level = common_level([-30, -10], [0.9, 0.5])
    assert level == pytest.approx(-30 + PEAK_LIMIT_DB - 20 * math.log10(0.9))
    assert level < TARGET_LUFS
