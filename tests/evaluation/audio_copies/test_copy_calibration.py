"""Calibration of the audio copy meter: Gumbel fits, threshold, choice of excerpts."""

from __future__ import annotations

import numpy as np
import pytest

from musiclora.evaluation.audio_copies.calibration import (
    choose_excerpts,
    choose_threshold,
    fit_calibration,
    fit_gumbels,
)
from musiclora.evaluation.audio_copies.features import latent_frames
from musiclora.evaluation.audio_copies.scan import BestWindows

CELL = ("mel", 3)


def gumbel(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).gumbel(2.0, 0.3, count)


def test_fit_finds_location_and_scale():
    location, scale = fit_gumbels({CELL: gumbel(0, 20_000).tolist()})[CELL]
    # Standard errors of the moments of 20,000 draws are below 0.003.
    assert (location, scale) == (pytest.approx(2, abs=0.015), pytest.approx(0.3, abs=0.015))


@pytest.mark.parametrize("recordings", [4, 8, 16, 32])
def test_about_one_new_piece_in_a_hundred_passes(recordings):
    """Calibrate 300 times on draws of one Gumbel distribution; new draws of it pass in at most about 1 %."""
    passed = []
    for seed in range(300):
        best = [{CELL: float(value)} for value in gumbel(seed, recordings)]
        calibration = fit_calibration(best, 40.0, recordings)
        new = BestWindows(gumbel(1000 + seed, 200).astype(np.float32), *np.zeros((3, 200), np.int64))
        passed.append((calibration.scores_of(new, CELL, 40.0) > calibration.threshold).mean())
    # One cell is the hardest case: with the views' eight cells the scale is averaged.
    assert np.mean(passed) < (0.03 if recordings < 16 else 0.012)


def test_longer_pieces_have_more_windows_and_score_lower():
    calibration = fit_calibration([{CELL: float(value)} for value in gumbel(1, 20)], 40.0, 20)
    windows = BestWindows(np.array([3.0], np.float32), *np.zeros((3, 1), np.int64))
    scores = [float(calibration.scores_of(windows, CELL, seconds)[0]) for seconds in (20, 40, 80)]
    assert scores[0] == scores[1]
    assert scores[1] - scores[2] == pytest.approx(np.log(2))


def test_threshold_falls_with_the_number_of_recordings():
    limits = [choose_threshold(gumbel(2, 100).tolist(), recordings) for recordings in (4, 10, 40)]
    assert limits[0] > limits[1] > limits[2]


def test_excerpts_are_spread_over_recordings_and_no_longer_than_the_pieces():
    songs = [latent_frames(f"song-{i}", np.zeros((2000, 2)), 21.5) for i in range(50)]
    assert [piece.name for piece in choose_excerpts(songs, 10)][:3] == ["song-0", "song-2", "song-3"]
    assert len(choose_excerpts(songs, 10)) == 32
    few = choose_excerpts(songs[:5], 10)
    assert len(few) == 15
    assert {piece.length for piece in few} == {215}
    assert {piece.length for piece in choose_excerpts(songs[:5], 1.0)} == {48}  # the shortest that can be measured
