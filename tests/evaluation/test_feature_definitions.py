"""The definitions in docs/audio-evaluation.md written out in numpy, against what is measured."""

from __future__ import annotations

import numpy as np
import pytest
from require import require

from musiclora.evaluation.audio_features import ANALYSIS_RATE, FEATURE_NAMES, measure_features

require("librosa")
WINDOW, HOP, BANDS = 2048, 512, 128


@pytest.fixture(scope="module")
def sound():
    rng = np.random.default_rng(5)
    time = np.arange(3 * ANALYSIS_RATE) / ANALYSIS_RATE
    glide = np.sin(2 * np.pi * (200 * time + 300 * time**2)) * (1 + np.sin(2 * np.pi * 4 * time))
    return 0.2 * glide + 0.003 * rng.normal(size=len(time))


@pytest.fixture(scope="module")
def magnitudes(sound):
    samples = sound - sound.mean()
    samples *= 0.1 / np.sqrt(np.mean(samples**2))
    padded = np.pad(samples, WINDOW // 2)
    starts = range(0, len(padded) - WINDOW + 1, HOP)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    return np.abs(np.fft.rfft(np.stack([padded[s : s + WINDOW] * window for s in starts]), axis=1))


def mel_filters():
    """Slaney's filters: linear to 1000 Hz at 200/3 Hz a mel, then 27 mels to a factor of 6.4; area one."""

    def hertz(mel):
        return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))

    highest = 15 + 27 * np.log(ANALYSIS_RATE / 2 / 1000) / np.log(6.4)
    edges = hertz(np.linspace(0, highest, BANDS + 2))
    bins = np.arange(WINDOW // 2 + 1) * ANALYSIS_RATE / WINDOW
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def log_mel(magnitudes):
    decibels = 10 * np.log10(np.maximum(magnitudes**2 @ mel_filters().T, 1e-10))
    return np.maximum(decibels, decibels.max() - 80)


def test_the_mean_log_mel_spectrum_is_as_defined(sound, magnitudes):
    # float32 transforms are good to 1e-6 of the loudest bin, which is 1e-3 dB where a band is 30 dB fainter.
    np.testing.assert_allclose(measure_features(sound, ANALYSIS_RATE)[1], log_mel(magnitudes).mean(axis=0), atol=5e-3)


def test_the_features_are_as_defined(sound, magnitudes):
    vector = dict(zip(FEATURE_NAMES, measure_features(sound, ANALYSIS_RATE)[0], strict=True))
    bins = np.arange(WINDOW // 2 + 1) * ANALYSIS_RATE / WINDOW
    shares = magnitudes / magnitudes.sum(axis=1, keepdims=True)
    centroid = shares @ bins
    bandwidth = np.sqrt((shares * (bins - centroid[:, None]) ** 2).sum(axis=1))
    rolloff = bins[(np.cumsum(shares, axis=1) >= 0.85).argmax(axis=1)]
    assert vector["centroid"] == pytest.approx(centroid.mean(), rel=1e-4)
    assert vector["bandwidth"] == pytest.approx(bandwidth.mean(), rel=1e-4)
    assert vector["rolloff"] == pytest.approx(rolloff.mean(), rel=1e-3)
    mel = log_mel(magnitudes)
    for k in (0, 1, 7, 19):
        basis = np.cos(np.pi * k * (np.arange(BANDS) + 0.5) / BANDS) * np.sqrt((1 if k == 0 else 2) / BANDS)
        assert vector[f"mfcc_{k}"] == pytest.approx((mel @ basis).mean(), abs=0.05)
    rises = np.maximum(0, np.diff(mel, axis=0)).mean(axis=1)
    # librosa delays the curve by two frames to centre it and drops as many at its end.
    assert vector["onset_strength"] == pytest.approx(rises[:-2].sum() / len(mel), rel=1e-3)
