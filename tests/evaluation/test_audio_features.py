"""Features of synthetic recordings: what they depend on, what they do not, and what cannot be measured."""

from __future__ import annotations

import numpy as np
import pytest
from require import require

from musiclora.errors import DataError
from musiclora.evaluation.audio_distances import framewise_distance
from musiclora.evaluation.audio_features import FEATURE_NAMES, FLOOR_DB, RATE, analyse, level_gain, resampled

require("librosa")
require("soxr")


def tones(seconds=4.0, pitch=440.0, rate=RATE, seed=0):
    """Struck tones on a scale, two a second, with overtones."""
    time = np.arange(int(seconds * rate)) / rate
    steps = np.random.default_rng(seed).choice([0, 2, 4, 5, 7, 9, 11], 64)
    beat = (time * 2).astype(int)
    phase = np.cumsum(pitch * 2 ** (steps[beat] / 12)) / rate
    sound = sum(np.sin(2 * np.pi * k * phase) / k**2 for k in (1, 2, 3))
    return 0.1 * sound * np.exp(-4 * ((time * 2) % 1))


def noise(seconds=4.0, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=int(seconds * RATE))


def value(vector, name):
    return vector[FEATURE_NAMES.index(name)]


@pytest.fixture(scope="module")
def tone():
    return analyse(tones(), RATE)


def test_there_are_as_many_features_as_names_and_all_are_finite(tone):
    vector, spectrum = tone
    assert vector.shape == (len(FEATURE_NAMES),) == (45,)
    assert spectrum.shape == (128,)
    assert np.isfinite(vector).all()
    assert np.isfinite(spectrum).all()


@pytest.mark.parametrize("gain", [1e-2, 3.0])
def test_loudness_and_offset_make_no_difference(tone, gain):
    # float32 rounds the samples to 6e-8 of their size; near the floor of 80 dB that is 1e-4 dB and more.
    for before, after in zip(tone, analyse(gain * tones() + 0.05, RATE), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-3, atol=2e-3)


def test_stereo_is_mixed_and_the_sample_rate_is_brought_to_one():
    high, low = (0.1 * np.sin(2 * np.pi * 440 * np.arange(4 * rate) / rate) for rate in (44100, RATE))
    mono, stereo = resampled(high, 44100), resampled(np.stack([1.5 * high, 0.5 * high]), 44100)
    np.testing.assert_allclose(mono, stereo, atol=1e-6)
    middle = slice(RATE, 3 * RATE)  # at the ends a resampler rings
    np.testing.assert_allclose(mono[middle], resampled(low, RATE)[middle], atol=1e-4)


def test_features_find_what_they_are_named_after():
    time = np.arange(4 * RATE) / RATE
    low, high = (analyse(0.1 * np.sin(2 * np.pi * f * time), RATE)[0] for f in (440, 4186))
    chroma = [name for name in FEATURE_NAMES if name.startswith("chroma")]
    assert max(chroma, key=lambda name: value(low, name)) == "chroma_A"
    assert max(chroma, key=lambda name: value(high, name)) == "chroma_C"
    assert value(low, "centroid") == pytest.approx(440, rel=0.05)
    assert value(high, "centroid") == pytest.approx(4186, rel=0.05)
    assert value(low, "zero_crossings") == pytest.approx(2 * 440 / RATE, rel=0.05)
    assert value(analyse(noise(), RATE)[0], "bandwidth") > 10 * value(low, "bandwidth")
    # Two strokes a second are 120 beats a minute; the tempogram's steps near it are 5 wide.
    assert value(analyse(tones(8), RATE)[0], "tempo") == pytest.approx(120, abs=6)


def test_the_spectrum_reaches_from_its_floor_to_its_loudest_band():
    time = np.arange(4 * RATE) / RATE
    spectrum = analyse(0.1 * np.sin(2 * np.pi * 440 * time), RATE)[1]
    assert spectrum.max() - spectrum.min() == pytest.approx(FLOOR_DB, abs=6)
    assert spectrum.argmax() == pytest.approx(16, abs=2)  # 440 Hz is at 6.6 of 50.2 Slaney mels, of 128 bands


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (np.zeros(RATE), "silent"),
        (np.full(RATE, 0.5), "silent"),
        (np.stack([tones(), -tones()]), "silent"),
        (np.full(RATE, 1e-6) * np.sin(np.arange(RATE)), "silent"),
        (tones(0.3), "0.3 s long"),
        (np.zeros(0), "0 s long"),
        (np.append(tones(), np.nan), "not numbers"),
        (np.append(tones(), np.inf), "not numbers"),
    ],
    ids=["zeros", "a constant", "opposite channels", "below 16 bits", "short", "empty", "nan", "infinity"],
)
def test_what_cannot_be_measured_is_refused(audio, words):
    with pytest.raises(DataError, match=words):
        analyse(audio, RATE)


@pytest.mark.parametrize(
    "audio",
    [
        tones(0.5),
        tones(1.0),
        noise(1.0),
        np.append(tones(1), np.zeros(4 * RATE)),
        np.clip(50 * tones(), -1, 1),
        np.eye(1, 2 * RATE, RATE)[0],
        0.1 * np.sin(np.arange(2 * RATE)),
    ],
    ids=["half a second", "a second", "noise", "mostly silent", "clipped", "one click", "a steady tone"],
)
def test_odd_recordings_give_finite_features(audio):
    vector, spectrum = analyse(audio, RATE)
    assert np.isfinite(vector).all()
    assert np.isfinite(spectrum).all()


def test_a_recording_is_brought_to_one_level():
    samples = resampled(7 * noise(), RATE)
    assert np.sqrt(np.mean((level_gain(samples) * samples) ** 2)) == pytest.approx(0.1, rel=1e-5)


def test_the_framewise_distance_is_zero_for_a_copy_and_the_square_of_a_gain_in_decibels():
    sound = noise()
    assert framewise_distance(sound, RATE, sound, RATE) == 0
    # Half the amplitude is 6.02 dB in every frame and band, as noise has none near the floor; float32 rounds 1e-6.
    assert framewise_distance(0.5 * sound, RATE, sound, RATE) == pytest.approx((20 * np.log10(2)) ** 2, rel=1e-4)


def test_the_framewise_distance_sees_order_which_mean_spectra_do_not():
    sound = np.concatenate([tones(2, 440), tones(2, 880)])
    turned = np.concatenate([sound[2 * RATE :], sound[: 2 * RATE]])
    means = [analyse(part, RATE)[1] for part in (sound, turned)]
    assert np.mean((means[0] - means[1]) ** 2) < 0.1
    assert framewise_distance(turned, RATE, sound, RATE) > 10


def test_the_framewise_distance_refuses_lengths_that_differ():
    with pytest.raises(DataError, match=r"4\.00 s .* 3\.00 s"):
        framewise_distance(tones(4), RATE, tones(3), RATE)
