"""Distances of generated from real recordings: Audio Feature Distance and Spectral Distance, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.errors import DataError
from musiclora.evaluation.audio_features import (
    FEATURE_NAMES,
    Recordings,
    level_gain,
    log_mel,
    resample_mono,
    stft_magnitudes,
)

RESAMPLES, SPLITS = 1000, 20
_ROUNDING = 1e-6  # a deviation below this share of the mean is rounding


@dataclass(frozen=True)
class Spread:
    """Distance with its interval.

    Attributes:
        value: the distance; for real against real its mean over the splits.
        low, high: 95 % interval; see `compare_recordings` and `real_against_real`.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Distances:
    """Distances of generated from real recordings, and of real from real ones for scale.

    Attributes:
        afd, spectral: Audio Feature Distance (0 to 2) and Spectral Distance (dB squared).
        real_afd, real_spectral: the same between random halves of the reference recordings.
        generated, reference: numbers of measured files.
        generated_recordings, reference_recordings: numbers of different recordings that the files were cut from.
        constant: features without a scale, since all reference recordings share their value.
    """

    afd: Spread
    spectral: Spread
    real_afd: Spread
    real_spectral: Spread
    generated: int
    reference: int
    generated_recordings: int
    reference_recordings: int
    constant: tuple[str, ...]


def feature_scale(reference: np.ndarray) -> np.ndarray:
    """Compute the scale of each feature: its standard deviation over the reference recordings.

    Args:
        reference: feature vectors [N, F], N at least 2.

    Returns:
        Float64 [F]; infinity for a feature that does not vary (by more than a millionth of its mean), which takes it
        out of every distance.

    Raises:
        DataError: fewer than two recordings, or no feature varies.
    """
    if len(reference) < 2:
        raise DataError(
            f"{len(reference)} reference recording cannot tell how much a feature varies; give at least two"
        )
    deviation = reference.std(axis=0, dtype=np.float64)
    varies = deviation > _ROUNDING * np.abs(reference.mean(axis=0, dtype=np.float64))
    if not varies.any():
        raise DataError("the reference recordings are all alike, so that no feature has a scale; give different ones")
    return np.where(varies, deviation, np.inf)


def audio_feature_distance(generated: np.ndarray, reference: np.ndarray, scale: np.ndarray | None = None) -> float:
    """Compute the cosine distance between the mean feature vectors of two sets, in units of each feature's deviation.

    Args:
        generated, reference: feature vectors [N, F] and [M, F].
        scale: divisor of each feature [F]; None is `feature_scale` of the reference.

    Returns:
        1 - cos of the angle between the two means, not centred: 0 for the same direction, at most 2.

    Raises:
        DataError: no scale, see `feature_scale`, or a set whose mean is zero in every feature.
    """
    divisor = feature_scale(reference) if scale is None else scale
    a, b = (_normalise_vector(part.mean(axis=0, dtype=np.float64) / divisor) for part in (generated, reference))
    # Half the squared chord is 1 - cos without the cancellation that makes equal vectors come out at 1e-16.
    return float(((a - b) ** 2).sum() / 2)


def _normalise_vector(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    if not length:
        raise DataError("the mean of all features is zero, so that it has no direction")
    unit: np.ndarray = vector / length
    return unit


def pair_errors(generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Compute the mean squared difference of all pairs of spectra over their bands, float64 [N, M], dB squared."""
    # Row by row, since all differences together take a hundred times the memory of the result.
    return np.stack([((row - reference) ** 2).mean(axis=1) for row in generated])


def spectral_distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Compute the mean squared error of time-averaged log-mel spectra over all generated x reference pairs.

    Args:
        generated, reference: mean log-mel spectra in dB, [N, 128] and [M, 128].

    Returns:
        Decibels squared. It includes the variance inside a set, so that two equal sets of several spectra are not at 0.
        Compare with real against real.
    """
    return float(pair_errors(generated, reference).mean())


def compare_recordings(generated: Recordings, reference: Recordings, seed: int = 0) -> Distances:
    """Compute both distances with 95 % bootstrap intervals over the recordings of both sets.

    There are 1,000 resamples, and the interval ends at percentiles. All segments of a recording are drawn together.

    Features keep the scale of the whole reference in every resample and split. An interval is widened to hold its
    value where that lies outside: of sets that are alike, resampling can only increase the distance.

    Raises:
        DataError: fewer than two reference recordings, or alike ones.
    """
    scale = feature_scale(reference.vectors)
    errors = pair_errors(generated.spectra, reference.spectra)
    rng = np.random.default_rng(seed)
    groups = generated.groups, resampled_groups(reference)
    picks = [tuple(_draw_files(part, rng) for part in groups) for _ in range(RESAMPLES)]

    def afd(g: np.ndarray, r: np.ndarray) -> float:
        return audio_feature_distance(generated.vectors[g], reference.vectors[r], scale)

    whole = tuple(np.arange(len(part)) for part in (generated, reference))
    real_afd, real_spectral = real_against_real(reference, seed)
    return Distances(
        _interval(afd(*whole), [afd(*pick) for pick in picks]),
        _interval(float(errors.mean()), [float(errors[np.ix_(*pick)].mean()) for pick in picks]),
        real_afd,
        real_spectral,
        len(generated),
        len(reference),
        len(generated.groups),
        len(reference.groups),
        tuple(name for name, s in zip(FEATURE_NAMES, scale, strict=True) if np.isinf(s)),
    )


def resampled_groups(reference: Recordings) -> list[np.ndarray]:
    """Return the groups that a bootstrap draws from: recordings, or the segments where all are of one recording."""
    return reference.groups if len(reference.groups) > 1 else [np.array([number]) for number in range(len(reference))]


def _draw_files(groups: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Draw as many groups as there are, with replacement, and return the indices of their files."""
    return np.concatenate([groups[number] for number in rng.integers(0, len(groups), len(groups))])


def rank_recordings(generated: Recordings, reference: Recordings) -> list[tuple[str, float, float]]:
    """Compute both distances of each generated recording, sorted by its Audio Feature Distance.

    Raises:
        DataError: fewer than two reference recordings, or alike ones.
    """
    scale = feature_scale(reference.vectors)
    errors = pair_errors(generated.spectra, reference.spectra).mean(axis=1)
    afds = [audio_feature_distance(vector[None], reference.vectors, scale) for vector in generated.vectors]
    rows = zip(generated.names, afds, (float(e) for e in errors), strict=True)
    return sorted(rows, key=lambda row: row[1])


def real_against_real(reference: Recordings, seed: int = 0) -> tuple[Spread, Spread]:
    """Compute both distances between random halves of the reference recordings: mean and 95 % range over 20 splits.

    Features keep the scale of the whole set. Segments of one recording stay in one half. Of an odd number of recordings
    the second half has one more.

    Raises:
        DataError: fewer than two recordings, or alike ones.
    """
    scale = feature_scale(reference.vectors)
    errors = pair_errors(reference.spectra, reference.spectra)
    rng = np.random.default_rng([seed, 1])
    groups = resampled_groups(reference)
    half = len(groups) // 2
    orders = [rng.permutation(len(groups)) for _ in range(SPLITS)]
    halves = [[np.concatenate([groups[i] for i in part]) for part in np.split(order, [half])] for order in orders]

    def spread(of: Callable[[np.ndarray, np.ndarray], float]) -> Spread:
        values = [of(a, b) for a, b in halves]
        return Spread(float(np.mean(values)), *_percentiles(values))

    return (
        spread(lambda a, b: audio_feature_distance(reference.vectors[a], reference.vectors[b], scale)),
        spread(lambda a, b: float(errors[np.ix_(a, b)].mean())),
    )


def distance_reductions(
    baseline: Recordings, generated: Recordings, reference: Recordings, seed: int = 0, *, matched: bool = False
) -> tuple[Spread, Spread]:
    """Compute the shares by which both distances are smaller than a baseline's: 0.3 is 30 % nearer, below 0 farther.

    Args:
        baseline: recordings by the model that is compared with, such as the base without its adapter.
        generated, reference: as for `compare_recordings`.
        seed: of the bootstrap over the recordings of all three sets. A resample has one reference for both distances.
        matched: the n-th recordings of both sets come from the same noise. A resample then takes both or neither, so
            that the effect of the noise cancels.

    Raises:
        DataError: fewer than two reference recordings, or alike ones; a baseline at no distance.
    """
    scale = feature_scale(reference.vectors)
    rng = np.random.default_rng([seed, 2])
    picks = [tuple(np.arange(len(part)) for part in (baseline, generated, reference))]
    groups = baseline.groups, generated.groups, resampled_groups(reference)
    for _ in range(RESAMPLES):
        b, g, r = (_draw_files(part, rng) for part in groups)
        picks.append((g if matched else b, g, r))
    errors = [pair_errors(part.spectra, reference.spectra) for part in (baseline, generated)]

    def afd(recordings: Recordings, chosen: np.ndarray, r: np.ndarray) -> float:
        return audio_feature_distance(recordings.vectors[chosen], reference.vectors[r], scale)

    def spectral(which: int, chosen: np.ndarray, r: np.ndarray) -> float:
        return float(errors[which][np.ix_(chosen, r)].mean())

    return (
        _reduction([(afd(baseline, b, r), afd(generated, g, r)) for b, g, r in picks]),
        _reduction([(spectral(0, b, r), spectral(1, g, r)) for b, g, r in picks]),
    )


def _reduction(pairs: list[tuple[float, float]]) -> Spread:
    """Compute 1 - after / before of the first pair, with the interval over the others."""
    if not pairs[0][0]:
        raise DataError("the baseline is at no distance from the reference, so that nothing can be nearer")
    shares = [1 - after / before for before, after in pairs if before]
    return _interval(shares[0], shares[1:])


def framewise_distance(audio: np.ndarray, rate: int, original: np.ndarray, original_rate: int) -> float:
    """Compute the mean squared error of the log-mel spectrograms of a recording and its reproduction, frame by frame.

    Args:
        audio, original: float [channels, N] or [N].
        rate, original_rate: their sample rates in Hz.

    Returns:
        Decibels squared, over the frames of the shorter one; 0 for equal recordings. Both are scaled by the original's
        level, so that a difference in level counts.

    Raises:
        DataError: lengths that differ by more than a tenth of a second, or an original that cannot be measured.
    """
    seconds = audio.shape[-1] / rate, original.shape[-1] / original_rate
    if abs(seconds[0] - seconds[1]) > 0.1:
        raise DataError(f"is {seconds[0]:.2f} s long and its original {seconds[1]:.2f} s; frames do not correspond")
    reference = resample_mono(original, original_rate)
    gain = level_gain(reference)
    spectra = [log_mel(stft_magnitudes(gain * part) ** 2) for part in (resample_mono(audio, rate), reference)]
    frames = min(part.shape[1] for part in spectra)
    first, second = (part[:, :frames].astype(np.float64) for part in spectra)
    return float(((first - second) ** 2).mean())


def _interval(value: float, resampled: list[float]) -> Spread:
    low, high = _percentiles(resampled)
    return Spread(value, min(low, value), max(high, value))


def _percentiles(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
