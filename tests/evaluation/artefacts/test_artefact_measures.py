"""Noise floor, energy above 10 kHz, clipping and silence of constructed signals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from clicked_sound import RATE, melody

from musiclora.errors import DataError
from musiclora.evaluation.artefacts.measures import high_energy, measure_artefacts


def tone(hertz, seconds=4.0, level=0.2, rate=RATE):
    return level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def with_rests(sound):
    """Mute every second half-second, with fades of 5 ms."""
    period = RATE // 2
    gate = (np.arange(len(sound)) // period % 2 == 0).astype(float)
    return sound * np.convolve(gate, np.ones(220) / 220, mode="same")


@pytest.mark.parametrize("level_db", [-80, -60, -40])
def test_the_noise_floor_is_the_level_of_added_noise(level_db):
    noise = 10 ** (level_db / 20) * np.random.default_rng(0).normal(size=4 * RATE)
    found = measure_artefacts(with_rests(tone(330)) + noise, RATE)
    # A frame of 2,205 normal values scatters by 0.13 dB, and the quietest twentieth is read.
    assert found.noise_floor_db == pytest.approx(level_db, abs=0.6)


def test_digital_silence_is_no_noise_floor():
    noise = 1e-3 * np.random.default_rng(0).normal(size=RATE)
    found = measure_artefacts(np.concatenate([np.zeros(3 * RATE), noise]), RATE)
    assert found.noise_floor_db == pytest.approx(-60, abs=0.6)
    assert measure_artefacts(np.zeros(RATE), RATE).noise_floor_db is None


def test_an_offset_is_no_noise():
    noise = 1e-3 * np.random.default_rng(0).normal(size=(2, 4 * RATE))
    shifted = measure_artefacts(noise + np.array([[0.3], [-0.1]]), RATE)
    assert shifted.noise_floor_db == pytest.approx(measure_artefacts(noise, RATE).noise_floor_db, abs=1e-3)


def test_energy_above_ten_kilohertz_is_its_share():
    found = measure_artefacts(tone(1000, level=0.3) + tone(12000, level=0.1), RATE)
    assert found.energy_above_10khz == pytest.approx(0.1, abs=1e-3)
    assert high_energy(tone(1000)[None], RATE) == pytest.approx(0, abs=1e-6)


def test_a_low_pass_takes_the_energy_above_ten_kilohertz():
    from scipy.signal import butter, sosfilt

    noise = 0.1 * np.random.default_rng(0).normal(size=(2, 4 * RATE))
    low = sosfilt(butter(8, 6000, fs=RATE, output="sos"), noise)
    open_share = high_energy(noise, RATE)
    assert open_share == pytest.approx((RATE / 2 - 10000) / (RATE / 2), abs=0.01)
    assert high_energy(low, RATE) == pytest.approx(0, abs=0.001)


@pytest.mark.parametrize(("rate", "known"), [(16000, False), (20000, False), (22050, True), (96000, True)])
def test_a_rate_too_low_for_ten_kilohertz_measures_no_energy_above(rate, known):
    assert (measure_artefacts(tone(440, rate=rate), rate).energy_above_10khz is not None) == known


@pytest.mark.parametrize("rate", [8, 100, 1000])
def test_sampling_rates_below_all_music_are_measured(rate):
    found = measure_artefacts(np.random.default_rng(0).normal(0, 0.1, (2, 4 * rate)), rate)
    assert (found.clicks_per_minute, found.energy_above_10khz, found.clipped) == (0, None, 0)


def test_a_constant_and_an_impulse_alone_are_measured():
    assert measure_artefacts(np.full(RATE, 0.5), RATE).silence == 1
    impulse = np.zeros(RATE)
    impulse[RATE // 2] = 0.5
    assert measure_artefacts(impulse, RATE).clicks_per_minute == 60


def test_silence_has_no_share_of_energy():
    assert high_energy(np.zeros((1, RATE), np.float32), RATE) is None


def test_clipping_is_the_share_of_flat_samples():
    sound = tone(330, level=2.0)
    hard = np.clip(sound, -1, 1).astype(np.float32)
    # 60 degrees of each half wave stay below full scale.
    assert measure_artefacts(hard, RATE).clipped == pytest.approx(2 / 3, abs=0.01)
    assert measure_artefacts(0.5 * hard, RATE).clipped == pytest.approx(2 / 3, abs=0.01)
    assert measure_artefacts(tone(330, level=0.99).astype(np.float32), RATE).clipped == 0


def test_silence_is_the_share_of_time_with_zeros_or_little_else():
    sound = np.concatenate([melody(3.0), np.zeros(RATE)])
    assert measure_artefacts(sound, RATE).silence == pytest.approx(0.25, abs=0.02)
    hum = np.concatenate([melody(3.0), tone(100, 1.0, level=5e-4)])
    assert measure_artefacts(hum, RATE).silence == pytest.approx(0.25, abs=0.02)
    loud_hum = np.concatenate([melody(3.0), tone(100, 1.0, level=5e-3)])
    assert measure_artefacts(loud_hum, RATE).silence == 0


def test_one_channel_and_two_equal_ones_measure_the_same():
    one = melody()
    first, second = measure_artefacts(one, RATE), measure_artefacts(np.stack([one, one]), RATE)
    for field in dataclasses.fields(first):
        assert getattr(first, field.name) == pytest.approx(getattr(second, field.name), rel=1e-6)


@pytest.mark.parametrize(
    ("sound", "reason"),
    [(np.full(RATE, np.nan), "not numbers"), (np.zeros(100), "at least 0.5 s")],
    ids=["NaN", "short"],
)
def test_what_cannot_be_measured_is_said(sound, reason):
    with pytest.raises(DataError, match=reason):
        measure_artefacts(sound, RATE)
