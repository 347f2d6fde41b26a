"""Distances against hand-computed cases, their intervals, and their errors."""

from __future__ import annotations

import numpy as np
import pytest

from musiclora.errors import DataError
from musiclora.evaluation.audio_distances import (
    audio_feature_distance,
    compare_recordings,
    distance_reductions,
    feature_scale,
    real_against_real,
    spectral_distance,
)
from musiclora.evaluation.audio_features import FEATURE_NAMES, MELS, Recordings


def recordings(count, seed, shift=0.0):
    """Recordings with made-up features: random around 10, some of them moved by shift."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(10, 1, (count, len(FEATURE_NAMES)))
    vectors[:, ::2] += shift
    spectra = rng.normal(-30, 5, (count, MELS)) + shift
    return Recordings(tuple(f"{i}.wav" for i in range(count)), vectors, spectra)


def test_the_feature_distance_is_one_minus_the_cosine_of_the_scaled_means():
    reference = np.array([[1.0, 10.0], [3.0, 30.0]])  # deviations 1 and 10, mean (2, 20): scaled (2, 2)
    generated = np.array([[0.0, 20.0], [0.0, 40.0]])  # mean (0, 30): scaled (0, 3)
    assert audio_feature_distance(generated, reference) == pytest.approx(1 - np.sqrt(0.5), rel=1e-12)


def test_the_means_are_not_centred():
    reference = np.array([[9.0, 11.0], [11.0, 9.0]])  # both features at 10 deviations from zero
    generated = reference + 1.0  # centred, the angle would be 45 degrees or more; from zero it is none
    assert audio_feature_distance(generated, reference) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("generated", "expected"), [([[1.0, 0.0]], 1 - np.sqrt(0.5)), ([[-1.0, -1.0]], 2.0), ([[5.0, -5.0]], 1.0)]
)
def test_the_feature_distance_at_known_angles(generated, expected):
    reference = np.array([[0.0, 0.0], [2.0, 2.0]])
    assert audio_feature_distance(np.array(generated), reference) == pytest.approx(expected, rel=1e-12)


def test_the_unit_of_a_feature_makes_no_difference():
    generated, reference = recordings(4, 1).vectors, recordings(5, 2).vectors
    units = np.geomspace(1e-3, 1e3, generated.shape[1])
    expected = audio_feature_distance(generated, reference)
    assert audio_feature_distance(generated * units, reference * units) == pytest.approx(expected, rel=1e-9)


def test_a_set_has_no_feature_distance_to_itself():
    reference = recordings(6, 3)
    assert audio_feature_distance(reference.vectors, reference.vectors) == 0


def test_a_feature_that_never_varies_in_the_reference_is_left_out_and_named():
    generated, reference = recordings(4, 4), recordings(4, 5)
    column = FEATURE_NAMES.index("tempo")
    reference.vectors[:, column], generated.vectors[:, column] = 120.0, [60.0, 90.0, 180.0, 240.0]
    found = compare_recordings(generated, reference)
    without = [np.delete(part.vectors, column, axis=1) for part in (generated, reference)]
    assert found.constant == ("tempo",)
    assert found.afd.value == pytest.approx(audio_feature_distance(*without), rel=1e-9)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_reference_recordings_are_refused(count):
    with pytest.raises(DataError, match="at least two"):
        feature_scale(recordings(3, 6).vectors[:count])


def test_reference_recordings_that_are_all_alike_are_refused():
    with pytest.raises(DataError, match="all alike"):
        feature_scale(np.repeat(recordings(1, 7).vectors, 3, axis=0))


def test_a_mean_of_zero_is_refused():
    with pytest.raises(DataError, match="no direction"):
        audio_feature_distance(np.zeros((2, 2)), np.array([[1.0, 2.0], [3.0, 5.0]]))


def test_the_spectral_distance_is_the_mean_squared_error_over_all_pairs():
    generated, reference = np.array([[0.0, 0.0]]), np.array([[1.0, 1.0], [3.0, 1.0]])
    assert spectral_distance(generated, reference) == pytest.approx((1 + 5) / 2)


def test_one_spectrum_has_no_spectral_distance_to_itself_but_different_ones_of_a_set_have():
    spectra = recordings(3, 8).spectra
    assert spectral_distance(spectra[:1], spectra[:1]) == 0
    assert spectral_distance(spectra, spectra) > 1


def test_intervals_hold_their_value_and_narrow_with_more_files():
    few, many = (compare_recordings(recordings(n, 9, 0.5), recordings(n, 10)) for n in (4, 64))
    for found in (few, many):
        assert found.afd.low <= found.afd.value <= found.afd.high
        assert found.spectral.low <= found.spectral.value <= found.spectral.high
    assert many.afd.high - many.afd.low < (few.afd.high - few.afd.low) / 2
    assert many.spectral.high - many.spectral.low < (few.spectral.high - few.spectral.low) / 2


def test_sets_of_one_kind_lie_within_the_real_distance_and_others_beyond_it():
    reference = recordings(40, 11)
    alike, other = (
        compare_recordings(recordings(40, 12), reference),
        compare_recordings(recordings(40, 13, 8.0), reference),
    )
    assert alike.afd.value < alike.real_afd.high
    assert other.afd.low > other.real_afd.high
    assert other.spectral.low > other.real_spectral.high


def test_the_real_distance_of_two_recordings_is_the_one_between_them():
    reference = recordings(2, 14)
    scale = feature_scale(reference.vectors)
    afd, spectral = real_against_real(reference)
    between = audio_feature_distance(reference.vectors[:1], reference.vectors[1:], scale)
    assert (afd.low, afd.value, afd.high) == pytest.approx((between,) * 3, rel=1e-9)
    assert spectral.value == pytest.approx(spectral_distance(reference.spectra[:1], reference.spectra[1:]))


def test_the_same_seed_gives_the_same_intervals():
    sets = recordings(5, 15, 1.0), recordings(7, 16)
    assert compare_recordings(*sets, seed=3) == compare_recordings(*sets, seed=3)
    assert compare_recordings(*sets, seed=3).afd != compare_recordings(*sets, seed=4).afd


def test_a_reduction_is_the_share_by_which_a_distance_is_smaller_than_the_baselines():
    baseline, generated, reference = recordings(20, 17, 8.0), recordings(20, 18, 4.0), recordings(20, 19)
    before, after = compare_recordings(baseline, reference), compare_recordings(generated, reference)
    afd, spectral = distance_reductions(baseline, generated, reference)
    assert afd.value == pytest.approx(1 - after.afd.value / before.afd.value)
    assert spectral.value == pytest.approx(1 - after.spectral.value / before.spectral.value)
    assert 0 < afd.low < afd.value < afd.high < 1
    assert 0 < spectral.low < spectral.value < spectral.high < 1


def test_a_change_by_chance_alone_has_zero_within_its_interval():
    afd, spectral = distance_reductions(recordings(20, 20, 8.0), recordings(20, 21, 8.0), recordings(20, 22))
    assert afd.low < 0 < afd.high
    assert spectral.low < 0 < spectral.high


def test_a_baseline_at_no_distance_is_refused():
    reference = recordings(3, 23)
    with pytest.raises(DataError, match="nothing can be nearer"):
        distance_reductions(reference, recordings(3, 24), reference)


def test_matched_recordings_narrow_the_interval_of_a_reduction():
    baseline, reference = recordings(12, 25, 4.0), recordings(20, 26)
    moved = Recordings(baseline.names, baseline.vectors - 0.05, baseline.spectra - 0.5)
    apart, matched = (distance_reductions(baseline, moved, reference, matched=m) for m in (False, True))
    assert [part.value for part in apart] == [part.value for part in matched]
    for loose, tight in zip(apart, matched, strict=True):
        assert tight.high - tight.low < (loose.high - loose.low) / 2


def test_segments_of_one_recording_count_once_in_the_intervals():
    # Thirty segments of five recordings gave an interval as narrow as that of thirty recordings.
    generated, five = recordings(8, 30, 0.5), recordings(5, 31)
    segments = Recordings(
        tuple(f"{i}.wav" for i in range(30)),
        np.repeat(five.vectors, 6, 0) + 1e-9 * np.arange(30)[:, None],  # not the same sound
        np.repeat(five.spectra, 6, 0),
        sources=tuple(f"{i // 6}.wav" for i in range(30)),
    )
    whole, cut = compare_recordings(generated, five), compare_recordings(generated, segments)
    assert (cut.reference, cut.reference_recordings, cut.generated_recordings) == (30, 5, 8)
    for one, other in ((whole.afd, cut.afd), (whole.spectral, cut.spectral), (whole.real_afd, cut.real_afd)):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-5)
    for one, other in zip(*(distance_reductions(generated, five, ref) for ref in (five, segments)), strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-5)


def test_files_with_the_same_sound_count_once():
    one = recordings(5, 32)
    twice = Recordings(one.names * 2, np.tile(one.vectors, (2, 1)), np.tile(one.spectra, (2, 1)))
    assert [group.tolist() for group in twice.groups] == [[i, i + 5] for i in range(5)]
