"""Calibration of the audio copy meter: how similar windows of recordings are that nobody copied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.evaluation.audio_copies.features import LEAST_PATCHES, Frames
from musiclora.evaluation.audio_copies.scan import BestWindows

LEAST_RECORDINGS = 4  # for a fit
FALSE_ALARM = 0.01  # share of unseen recordings that may pass the threshold
DEFAULT_THRESHOLD = 8.0  # where there are too few recordings for a fit
_EXCERPTS, _MOST_OF_ONE = 32, 4  # measured in all, and of one recording
_LONGEST_SECONDS = 60.0  # of an excerpt
# Typical best windows of unseen recordings by their patches, for want of own ones: location and scale of the Gumbel
# distribution, of 40 s of piano tunes against 20 minutes of others.
_DEFAULT_FITS = {3: (2.7, 0.25), 6: (2.0, 0.2), 12: (1.4, 0.17), 24: (1.0, 0.15)}
_DEFAULT_SECONDS = 40.0
_LEAST_SCALE = 0.05  # of a fit
_WIDENED_BY = 3.0  # recordings; chosen on the tuning set of tests/benchmarks/audio_copying.py, for 4 to 20 recordings
_EULER = 0.5772156649015329
_ONE_SIDED_95 = 1.645  # standard errors
Cell = tuple[str, int]  # view, and patches of a window


@dataclass(frozen=True)
class Calibration:
    """Scale of similarity.

    The best of many windows follows a Gumbel distribution, whose location grows with the logarithm of their number. A
    score is the distance of a piece's best window from that location, in units of the distribution's scale; it is the
    greatest over the views and the lengths of the window.

    Attributes:
        fits: location and scale of each cell's best windows.
        seconds: mean length of the measured excerpts.
        scores: of the excerpts, ascending; empty where there are too few recordings for a fit.
        threshold: highest score of a piece that is no copy.
    """

    fits: Mapping[Cell, tuple[float, float]]
    seconds: float
    scores: tuple[float, ...]
    threshold: float

    def scores_of(self, windows: BestWindows, cell: Cell, seconds: float) -> np.ndarray:
        """Convert the similarities of a piece's windows to scores, float64 [W].

        Args:
            windows: of one view and length.
            cell: names both.
            seconds: length of the piece.
        """
        location, scale = self.fits.get(cell, _DEFAULT_FITS[cell[1]])
        found: np.ndarray = (windows.scores.astype(np.float64) - location) / scale
        return found - math.log(max(seconds / self.seconds, 1.0))


def fit_calibration(best: Sequence[Mapping[Cell, float]], seconds: float, recordings: int) -> Calibration:
    """Fit the scale to the best windows of unseen excerpts.

    Args:
        best: similarity of each excerpt's best window, by view and length.
        seconds: mean length of the excerpts.
        recordings: number of recordings that they are of.
    """
    if recordings < LEAST_RECORDINGS:
        return Calibration({}, _DEFAULT_SECONDS, (), DEFAULT_THRESHOLD)
    cells = [cell for cell in best[0] if all(cell in found for found in best)]
    fits = fit_gumbels({cell: [found[cell] for found in best] for cell in cells})
    scores = sorted(max((found[cell] - at) / scale for cell, (at, scale) in fits.items()) for found in best)
    return Calibration(fits, seconds, tuple(scores), choose_threshold(scores, recordings))


def fit_gumbels(values: Mapping[Cell, Sequence[float]]) -> dict[Cell, tuple[float, float]]:
    """Fit location and scale of each cell's Gumbel distribution by moments.

    A deviation of few values is uncertain: its square is averaged with the mean square over all cells.
    """
    variances = {cell: float(np.var(own, ddof=1)) for cell, own in values.items()}
    common = float(np.mean(list(variances.values())))
    fits = {}
    for cell, own in values.items():
        scale = max(math.sqrt(6 * (variances[cell] + common) / 2) / math.pi, _LEAST_SCALE)
        fits[cell] = float(np.mean(own)) - _EULER * scale, scale
    return fits


def choose_threshold(scores: Sequence[float], recordings: int) -> float:
    """Choose the score that at most one unseen piece in a hundred passes.

    The greatest of the cells' scores has about the scale 1 by construction, so that only its location is fitted. It is
    taken at its upper 95 % confidence limit. The scores of the fitted excerpts are narrower than those of new pieces,
    the more so the fewer there are, for which the quantile is widened.

    Args:
        scores: of unseen excerpts.
        recordings: independent ones among them.
    """
    location = float(np.mean(scores)) - _EULER
    quantile = -math.log(-math.log(1 - FALSE_ALARM)) * (1 + _WIDENED_BY / recordings)
    return location + quantile + _ONE_SIDED_95 * math.pi / math.sqrt(6 * recordings)


def choose_excerpts(recordings: Sequence[Frames], piece_seconds: float | None) -> list[Frames]:
    """Cut excerpts of recordings that were not copied, at even distances in each.

    Args:
        recordings: more than 32 are thinned out evenly; of fewer than 16, up to four excerpts are taken each.
        piece_seconds: length of the pieces that will be measured; None means a minute.
    """
    chosen = np.unique(
        np.linspace(0, len(recordings) - 1, min(len(recordings), _EXCERPTS)).round().astype(int)
    ).tolist()
    wanted = min(_MOST_OF_ONE, max(1, _EXCERPTS // 2 // max(1, len(chosen))))
    excerpts = []
    for recording in (recordings[number] for number in chosen):
        seconds = min(piece_seconds or _LONGEST_SECONDS, _LONGEST_SECONDS)
        frames = max(round(seconds * recording.rate), (LEAST_PATCHES + 1) * recording.hop)
        frames = min(frames, recording.length)
        count = min(wanted, max(1, recording.length // frames))
        for start in np.linspace(0, recording.length - frames, count + 2)[1:-1]:
            excerpts.append(recording.excerpt(2 * int(start / 2), frames))
    return excerpts
