"""Squared MMD against hand-computed and constructed cases, its scale, and what too few recordings cannot carry."""

from __future__ import annotations

import numpy as np
import pytest

from musiclora.evaluation.audio_features import FEATURE_NAMES, MELS, Recordings
from musiclora.evaluation.kernel_distance import compare_kernels, median_bandwidth, squared_mmd


def recordings(count, seed, shift=0.0, sources=()):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(10, 1, (count, len(FEATURE_NAMES))) + shift
    names = tuple(f"{i}.wav" for i in range(count))
    return Recordings(names, vectors, rng.normal(-30, 5, (count, MELS)), sources=sources)


def test_squared_mmd_equals_the_formula_by_hand():
    kernel = np.array([[1, 0.5, 0.2, 0.1], [0.5, 1, 0.3, 0.4], [0.2, 0.3, 1, 0.6], [0.1, 0.4, 0.6, 1]])
    found = squared_mmd(kernel, np.arange(4), np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1]))
    assert found == pytest.approx(0.5 + 0.6 - 2 * (0.2 + 0.1 + 0.3 + 0.4) / 4, abs=1e-12)


def test_squared_mmd_leaves_out_pairs_of_one_recording():
    kernel = np.array([[1, 0.9, 0.2], [0.9, 1, 0.4], [0.2, 0.4, 1]])
    sides = np.array([1, 1, 1]), np.array([1, 1, 1])
    joined = squared_mmd(kernel, np.array([0, 0, 1]), *sides)
    assert joined == pytest.approx(2 * (0.2 + 0.4) / 2 - 2 * kernel.mean(), abs=1e-12)
    assert squared_mmd(kernel, np.zeros(3, dtype=int), *sides) is None


def test_bandwidth_is_the_median_distance_between_recordings():
    vectors = np.array([[0.0], [1.0], [5.0]])
    assert median_bandwidth(vectors, np.arange(3)) == 4
    assert median_bandwidth(vectors, np.array([0, 0, 1])) == 4.5


def test_small_sets_of_one_distribution_are_at_zero_on_average():
    """Check 300 draws of 4 against 8 with a fixed kernel: the mean is within four standard errors of 0."""
    first, second = np.repeat([1, 0], [4, 8]), np.repeat([0, 1], [4, 8])
    values = []
    for seed in range(300):
        vectors = np.random.default_rng(seed).normal(size=(12, 5))
        squared = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=-1)
        values.append(squared_mmd(np.exp(-squared / 10), np.arange(12), first, second))
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert error < 0.005  # with the pairs of a file and itself, the mean would be about 0.2
    assert np.min(values) < 0


def test_a_shifted_set_lies_beyond_real_against_real():
    reference = recordings(12, 1)
    near, far = (compare_kernels(recordings(8, 2, shift), reference) for shift in (0.0, 1.0))
    assert near.mmd.value < 0.1 < far.mmd.value
    assert far.mmd.low > far.real.high
    assert far.mmd.low <= far.mmd.value <= far.mmd.high


@pytest.mark.parametrize(("made", "real"), [(1, 6), (4, 3)], ids=["one generated", "three references"])
def test_too_few_recordings_are_said_instead_of_measured(made, real):
    found = compare_kernels(recordings(made, 1), recordings(real, 2))
    assert (found.mmd is None, found.real is None) == (made < 2, real < 4)
    assert len(found.notes) == 1
    assert "takes at least" in found.notes[0]
    assert (found.as_json()["mmd"] is None) == (made < 2)


def test_segments_of_one_generated_recording_are_one_recording():
    found = compare_kernels(recordings(5, 1, sources=("a",) * 5), recordings(6, 2))
    assert found.mmd is None


def test_a_baseline_shows_the_share_by_which_the_distance_is_smaller():
    reference, base = recordings(12, 1), recordings(8, 2, 1.5)
    found = compare_kernels(recordings(8, 3, 0.5), reference, baseline=base)
    far = compare_kernels(base, reference).mmd.value
    assert found.reduction.value == pytest.approx(1 - found.mmd.value / far, rel=1e-12)
    assert 0 < found.reduction.low <= found.reduction.value <= found.reduction.high
    assert found.as_json()["mmd_reduction"] == found.reduction.value
    assert "mmd_reduction" not in compare_kernels(base, reference).as_json()


def test_pieces_of_the_same_noise_are_drawn_together():
    reference, base = recordings(12, 1), recordings(8, 2, 1.5)
    nearer = Recordings(base.names, base.vectors - 0.7, base.spectra)
    paired, apart = (compare_kernels(nearer, reference, baseline=base, matched=m).reduction for m in (True, False))
    assert paired.value == apart.value
    assert paired.high - paired.low < apart.high - apart.low


def test_a_baseline_at_about_no_distance_gives_no_reduction():
    reference = recordings(12, 1)
    found = compare_kernels(recordings(8, 3, 0.5), reference, baseline=recordings(8, 2))
    assert found.reduction is None
    assert found.as_json()["mmd_reduction"] is None
    assert "not clearly at a distance" in found.notes[0]
