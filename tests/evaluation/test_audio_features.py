"""Features of synthetic recordings: dependences, invariances, and errors."""

from __future__ import annotations

import numpy as np
import pytest
import tolerance
from require import require

from musiclora.errors import DataError
from musiclora.evaluation.audio_distances import framewise_distance
from musiclora.evaluation.audio_features import (
    ANALYSIS_RATE,
    FEATURE_NAMES,
    FLOOR_DB,
    level_gain,
    measure_features,
    resample_mono,
)

require("librosa")
require("soxr")


def tones(seconds=4.0, pitch=440.0, rate=ANALYSIS_RATE, seed=0):
    """Struck tones on a scale, two a second, with overtones."""
    time = np.arange(int(seconds * rate)) / rate
    steps = np.random.default_rng(seed).choice([0, 2, 4, 5, 7, 9, 11], 64)
    beat = (time * 2).astype(int)
    phase = np.cumsum(pitch * 2 ** (steps[beat] / 12)) / rate
    sound = sum(np.sin(2 * np.pi * k * phase) / k**2 for k in (1, 2, 3))
    return 0.1 * sound * np.exp(-4 * ((time * 2) % 1))


def noise(seconds=4.0, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=int(seconds * ANALYSIS_RATE))


def value(vector, name):
    return vector[FEATURE_NAMES.index(name)]


@pytest.fixture(scope="module")
def tone():
    return measure_features(tones(), ANALYSIS_RATE)


def test_there_are_as_many_features_as_names_and_all_are_finite(tone):
    vector, spectrum = tone
    assert vector.shape == (len(FEATURE_NAMES),) == (45,)
    assert spectrum.shape == (128,)
    assert np.isfinite(vector).all()
    assert np.isfinite(spectrum).all()


@pytest.mark.parametrize("gain", [1e-2, 3.0])
def test_loudness_and_offset_make_no_difference(tone, gain):
    # float32 rounds the samples to 6e-8 of their size; near the floor of 80 dB that is 1e-4 dB and more.
    for before, after in zip(tone, measure_features(gain * tones() + 0.05, ANALYSIS_RATE), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-3, atol=2e-3)


def test_stereo_is_mixed_and_the_sample_rate_is_brought_to_one():
    high, low = (0.1 * np.sin(2 * np.pi * 440 * np.arange(4 * rate) / rate) for rate in (44100, ANALYSIS_RATE))
    mono, stereo = resample_mono(high, 44100), resample_mono(np.stack([1.5 * high, 0.5 * high]), 44100)
    # A windowed sinc of some hundred taps, whose absolute values sum to about four, over samples up to 0.15.
    tolerance.assert_near(mono, stereo, tolerance.rounding(400, 4 * 0.15))
    middle = slice(ANALYSIS_RATE, 3 * ANALYSIS_RATE)  # at the ends a resampler rings
    np.testing.assert_allclose(mono[middle], resample_mono(low, ANALYSIS_RATE)[middle], atol=1e-4)


def test_features_find_what_they_are_named_after():
    time = np.arange(4 * ANALYSIS_RATE) / ANALYSIS_RATE
    low, high = (measure_features(0.1 * np.sin(2 * np.pi * f * time), ANALYSIS_RATE)[0] for f in (440, 4186))
    chroma = [name for name in FEATURE_NAMES if name.startswith("chroma")]
    assert max(chroma, key=lambda name: value(low, name)) == "chroma_A"
    assert max(chroma, key=lambda name: value(high, name)) == "chroma_C"
    assert value(low, "centroid") == pytest.approx(440, rel=0.05)
    assert value(high, "centroid") == pytest.approx(4186, rel=0.05)
    assert value(low, "zero_crossings") == pytest.approx(2 * 440 / ANALYSIS_RATE, rel=0.05)
    assert value(measure_features(noise(), ANALYSIS_RATE)[0], "bandwidth") > 10 * value(low, "bandwidth")
    # Two strokes a second are 120 beats a minute; the tempogram's steps near it are 5 wide.
    assert value(measure_features(tones(8), ANALYSIS_RATE)[0], "tempo") == pytest.approx(120, abs=6)


def test_the_spectrum_reaches_from_its_floor_to_its_loudest_band():
    time = np.arange(4 * ANALYSIS_RATE) / ANALYSIS_RATE
    spectrum = measure_features(0.1 * np.sin(2 * np.pi * 440 * time), ANALYSIS_RATE)[1]
    assert spectrum.max() - spectrum.min() == pytest.approx(FLOOR_DB, abs=6)
    assert spectrum.argmax() == pytest.approx(16, abs=2)  # 440 Hz is at 6.6 of 50.2 Slaney mels, of 128 bands


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (np.zeros(ANALYSIS_RATE), "silent"),
        (np.full(ANALYSIS_RATE, 0.5), "silent"),
        (np.stack([tones(), -tones()]), "silent"),
        (np.full(ANALYSIS_RATE, 1e-6) * np.sin(np.arange(ANALYSIS_RATE)), "silent"),
        (tones(0.3), "0.3 s long"),
        (np.zeros(0), "0 s long"),
        (np.append(tones(), np.nan), "not numbers"),
        (np.append(tones(), np.inf), "not numbers"),
    ],
    ids=["zeros", "a constant", "opposite channels", "below 16 bits", "short", "empty", "nan", "infinity"],
)
def test_what_cannot_be_measured_is_refused(audio, words):
    with pytest.raises(DataError, match=words):
        measure_features(audio, ANALYSIS_RATE)


@pytest.mark.parametrize(
    "audio",
    [
        tones(0.5),
        tones(1.0),
        noise(1.0),
        np.append(tones(1), np.zeros(4 * ANALYSIS_RATE)),
        np.clip(50 * tones(), -1, 1),
        np.eye(1, 2 * ANALYSIS_RATE, ANALYSIS_RATE)[0],
        0.1 * np.sin(np.arange(2 * ANALYSIS_RATE)),
    ],
    ids=["half a second", "a second", "noise", "mostly silent", "clipped", "one click", "a steady tone"],
)
def test_odd_recordings_give_finite_features(audio):
    vector, spectrum = measure_features(audio, ANALYSIS_RATE)
    assert np.isfinite(vector).all()
    assert np.isfinite(spectrum).all()


def test_a_recording_is_brought_to_one_level():
    samples = resample_mono(7 * noise(), ANALYSIS_RATE)
    assert np.sqrt(np.mean((level_gain(samples) * samples) ** 2)) == pytest.approx(0.1, rel=1e-5)


def test_the_framewise_distance_is_zero_for_a_copy_and_the_square_of_a_gain_in_decibels():
    sound = noise()
    assert framewise_distance(sound, ANALYSIS_RATE, sound, ANALYSIS_RATE) == 0
    # Half the amplitude is 6.02 dB in every frame and band, as noise has none near the floor; float32 rounds 1e-6.
    assert framewise_distance(0.5 * sound, ANALYSIS_RATE, sound, ANALYSIS_RATE) == pytest.approx(
        (20 * np.log10(2)) ** 2, rel=1e-4
    )


def test_the_framewise_distance_sees_order_which_mean_spectra_do_not():
    sound = np.concatenate([tones(2, 440), tones(2, 880)])
    turned = np.concatenate([sound[2 * ANALYSIS_RATE :], sound[: 2 * ANALYSIS_RATE]])
    means = [measure_features(part, ANALYSIS_RATE)[1] for part in (sound, turned)]
    assert np.mean((means[0] - means[1]) ** 2) < 0.1
    assert framewise_distance(turned, ANALYSIS_RATE, sound, ANALYSIS_RATE) > 10


def test_the_framewise_distance_refuses_lengths_that_differ():
    with pytest.raises(DataError, match=r"4\.00 s .* 3\.00 s"):
        framewise_distance(tones(4), ANALYSIS_RATE, tones(3), ANALYSIS_RATE)
