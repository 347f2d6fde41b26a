"""Comparison of sets of pieces for the style card: excerpts, resamples, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.evaluation.audio_distances import Spread
from musiclora.evaluation.style.card import FeatureResult, SetScore, StyleCard, check_count
from musiclora.evaluation.style.events import PieceEvents, take_excerpt
from musiclora.evaluation.style.features import FEATURES, Feature
from musiclora.evaluation.style.overlap import Overlap, SetDistances, compare_sets

LEAST_REFERENCE, LEAST_GENERATED = 4, 2  # pieces
_LEAST_HALVES = 8  # songs of the reference to split in halves
_RESAMPLES, _SPLITS = 200, 100
MOST_PIECES = 100  # of a set that are compared


def compare_styles(
    reference: Sequence[PieceEvents],
    generated: Sequence[PieceEvents],
    baseline: Sequence[PieceEvents] = (),
    rest: Sequence[PieceEvents] = (),
    *,
    matched: bool = False,
    seed: int = 0,
) -> StyleCard:
    """Compare generated pieces with the songs of an artist.

    All pieces are cut to one length: the median of the generated ones, or that of the songs if it is smaller.
    Intervals are 95 % percentiles over 200 resamples of the pieces of all sets, moved so that their mean is the value:
    a resample holds fewer different pieces, which alone lowers an overlap. The scale is the same comparison with other
    songs of the artist, as many as there are generated pieces; without such songs, with halves of the reference (mean
    and range over 100 splits).

    Args:
        reference: songs of the artist, at least four with notes.
        generated: at least two with notes.
        baseline: pieces of the base model; fewer than two with notes are not compared.
        rest: further songs of the artist for the scale; at least four with notes.
        matched: the pieces of the baseline belong to the generated ones one by one, and are resampled with them.
        seed: of the resamples.

    Raises:
        DataError: too few pieces.
    """
    rng = np.random.default_rng([seed, 11])
    notes: list[str] = []
    matched = matched and len(baseline) == len(generated) and all(map(len, [*baseline, *generated]))
    given = {"reference": reference, "generated": generated, "baseline": baseline, "rest": rest}
    sets = {name: _draw_pieces(name, pieces, rng, notes) for name, pieces in given.items()}
    matched = matched and max(len(generated), len(baseline)) <= MOST_PIECES
    check_count(len(sets["reference"]), LEAST_REFERENCE, "--reference-dir")
    check_count(len(sets["generated"]), LEAST_GENERATED, "--generated-dir")
    if len(sets["baseline"]) < LEAST_GENERATED:
        notes += ["the baseline has too few pieces to compare"] if baseline else []
        sets["baseline"] = []
    if len(sets["rest"]) < LEAST_REFERENCE:
        sets["rest"] = []
    quarters = _excerpt_length(sets)
    cut = {name: [take_excerpt(piece, quarters) for piece in pieces] for name, pieces in sets.items()}
    draws = _Draws.of({name: len(pieces) for name, pieces in sets.items()}, matched, rng)
    rows, areas = [], []
    for feature in FEATURES:
        measured = _measure_feature(feature, cut, draws)
        if measured is None:
            notes.append(f"style: too few pieces have a {feature.title}; it is left out")
            continue
        rows.append(measured.result(feature))
        areas.append(measured)
    if draws.halves is None and not sets["rest"]:
        notes.append(
            f"style has no scale: songs of the artist against each other take at least {_LEAST_HALVES} songs in "
            "--reference-dir, or --train-dir"
        )
    means = _mean_scores(areas)
    gain = _spread(means["generated"].area - means["baseline"].area) if "baseline" in means else None
    scores = {name: _score(found, name == "real" and not sets["rest"]) for name, found in means.items()}
    counts = {name: len(pieces) for name, pieces in sets.items() if pieces}
    found = (scores["generated"], scores.get("baseline"), scores.get("real"))
    return StyleCard(tuple(rows), *found, gain, counts, quarters, tuple(notes))


def _draw_pieces(
    name: str, pieces: Sequence[PieceEvents], rng: np.random.Generator, notes: list[str]
) -> list[PieceEvents]:
    """Leave out pieces without notes, and draw as many as are compared."""
    found = [piece for piece in pieces if len(piece)]
    if len(found) > MOST_PIECES:
        notes.append(f"style: {MOST_PIECES} of the {len(found)} {name} pieces are compared, drawn at random")
        found = [found[i] for i in sorted(rng.choice(len(found), MOST_PIECES, replace=False))]
    return found


def _excerpt_length(sets: Mapping[str, Sequence[PieceEvents]]) -> float:
    """Return the length that all pieces are cut to, in whole quarter notes."""
    lengths = {name: [piece.length for piece in pieces] for name, pieces in sets.items()}
    made = float(np.median([*lengths["generated"], *lengths["baseline"]]))
    real = float(np.median([*lengths["reference"], *lengths["rest"]]))
    return float(max(1, round(min(made, real))))


@dataclass(frozen=True)
class _Draws:
    """How often each piece counts in each resample, float64 [1 + R, pieces]; the first row is the whole set.

    Attributes:
        sets: by name of the set.
        halves: 0 or 1 for the songs of one half of the reference, float64 [S, pieces]; None where they are too few or
            other songs give the scale.
    """

    sets: dict[str, np.ndarray]
    halves: np.ndarray | None

    @classmethod
    def of(cls, counts: Mapping[str, int], matched: bool, rng: np.random.Generator) -> _Draws:
        found: dict[str, np.ndarray] = {}
        for name, pieces in counts.items():
            if name == "baseline" and matched:
                found[name] = found["generated"]
            elif pieces:
                drawn = counts["generated"] if name == "rest" else pieces
                found[name] = np.concatenate((np.ones((1, pieces)), _resample(pieces, drawn, rng)))
        halves = None
        if not counts["rest"] and counts["reference"] >= _LEAST_HALVES:
            half = np.arange(counts["reference"]) < counts["reference"] // 2
            halves = np.stack([rng.permutation(half) for _ in range(_SPLITS)]).astype(np.float64)
        return cls(found, halves)


def _resample(pieces: int, drawn: int, rng: np.random.Generator) -> np.ndarray:
    """Count how often each piece is drawn with replacement, float64 [R, pieces]."""
    chosen = rng.integers(0, pieces, (_RESAMPLES, drawn))
    return np.stack([np.bincount(row, minlength=pieces) for row in chosen]).astype(np.float64)


@dataclass(frozen=True)
class _Measured:
    """Comparisons of one feature by set, and its values."""

    overlaps: dict[str, Overlap]
    values: dict[str, np.ndarray]
    by_halves: bool

    def result(self, feature: Feature) -> FeatureResult:
        scores = {name: _score(found, name == "real" and self.by_halves) for name, found in self.overlaps.items()}
        return FeatureResult(feature, scores["generated"], scores.get("baseline"), scores.get("real"), self.values)


def _measure_feature(feature: Feature, sets: Mapping[str, Sequence[PieceEvents]], draws: _Draws) -> _Measured | None:
    """Compare all sets in one feature; None where too few pieces have it."""
    vectors: dict[str, np.ndarray] = {}
    kept: dict[str, np.ndarray] = {}
    for name, pieces in sets.items():
        found = [feature.measure(piece) for piece in pieces]
        rows = [row for row in found if row is not None]
        if rows:
            vectors[name], kept[name] = np.stack(rows), np.array([row is not None for row in found])
    if len(vectors.get("reference", ())) < LEAST_REFERENCE or len(vectors.get("generated", ())) < LEAST_GENERATED:
        return None
    weights = {name: draws.sets[name][:, kept[name]] for name in vectors}
    overlaps = {}
    for name, key in (("generated", "generated"), ("baseline", "baseline"), ("rest", "real")):
        if len(vectors.get(name, ())) >= LEAST_GENERATED:
            distances = SetDistances.of(vectors["reference"], vectors[name])
            overlaps[key] = _compare(distances, weights["reference"], weights[name])
    if draws.halves is not None:
        half = draws.halves[:, kept["reference"]]
        overlaps["real"] = _compare(SetDistances.of(vectors["reference"], vectors["reference"]), half, 1 - half)
    values: dict[str, np.ndarray] = {
        name: vectors[name].mean(axis=0) if feature.labels else vectors[name][:, 0]
        for name in ("reference", "generated", "baseline")
        if name in vectors
    }
    return _Measured(overlaps, values, draws.halves is not None)


def _compare(distances: SetDistances, reference: np.ndarray, generated: np.ndarray) -> Overlap:
    """Compare two sets; NaN for resamples that leave too few different pieces."""
    enough = (np.count_nonzero(reference, axis=1) >= 2) & (np.count_nonzero(generated, axis=1) >= 1)
    found = compare_sets(distances, reference[enough], generated[enough])
    parts = []
    for part in (found.area, found.divergence, found.spread):
        filled = np.full(len(enough), np.nan)
        filled[enough] = part
        parts.append(filled)
    return Overlap(*parts)


def _mean_scores(measured: Sequence[_Measured]) -> dict[str, Overlap]:
    """Average over the features that have a set, resample by resample."""
    found = {}
    for name in ("generated", "baseline", "real"):
        parts = [part.overlaps[name] for part in measured if name in part.overlaps]
        if parts:
            stacked = (np.stack([getattr(part, key) for part in parts]) for key in ("area", "divergence", "spread"))
            found[name] = Overlap(*(_nan_mean(values) for values in stacked))
    return found


def _nan_mean(values: np.ndarray) -> np.ndarray:
    """Average the finite values of each column of [features, R]; NaN for a column without any."""
    known = np.isfinite(values)
    sums, counts = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _score(found: Overlap, is_split: bool) -> SetScore:
    area, divergence, spread = (_spread(values, is_split) for values in (found.area, found.divergence, found.spread))
    if area is None or divergence is None:
        raise AssertionError("a set of at least two pieces has an overlap")
    return SetScore(_clip(area, 1.0), _clip(divergence, np.inf), spread and _clip(spread, np.inf))


def _clip(part: Spread, highest: float) -> Spread:
    """Keep an interval that was moved inside what is possible."""
    return Spread(part.value, max(0.0, part.low), min(highest, part.high))


def _spread(values: np.ndarray, is_split: bool = False) -> Spread | None:
    """Return the first value with the 95 % interval of the others around it, or of splits their mean and range.

    Returns:
        The spread; None without a finite value.
    """
    finite = values[np.isfinite(values)]
    if not len(finite) or not (is_split or np.isfinite(values[0])):
        return None
    low, high = (float(end) for end in np.percentile(finite, [2.5, 97.5]))
    mean = float(finite.mean())
    value = mean if is_split else float(values[0])
    return Spread(value, value + low - mean, value + high - mean)
