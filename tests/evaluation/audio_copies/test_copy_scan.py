"""Scan of patches along diagonals against sums written out in loops."""

from __future__ import annotations

import numpy as np

from musiclora.evaluation.audio_copies.features import LATENT, Frames
from musiclora.evaluation.audio_copies.scan import SPANS, Scanner

RATE = 3.7  # frames a second, for which a hop is two frames


def recording(seed: int, length: int) -> Frames:
    rows = np.random.default_rng(seed).normal(size=(length, 5)).astype(np.float32)
    return Frames(f"r{seed}", f"r{seed}", {LATENT: rows}, RATE, length)


def centred_patches(rows: np.ndarray, step: int) -> np.ndarray:
    cut = [rows[at : at + 4] - rows[at : at + 4].mean(axis=0) for at in range(0, len(rows) - 3, step)]
    return np.stack([(part / np.linalg.norm(part)).ravel() for part in cut])


def test_best_windows_equal_means_along_diagonals_of_normalised_cosines():
    songs, piece = [recording(1, 40), recording(2, 33)], recording(3, 20)
    scanner = Scanner(LATENT, songs)
    found = scanner.scan(piece)
    assert piece.hop == 2
    scale = np.concatenate([song.rows[LATENT] for song in songs]).astype(np.float64).std(axis=0)
    own = centred_patches(piece.rows[LATENT] / scale, 2)
    others = [centred_patches(song.rows[LATENT] / scale, 1) for song in songs]
    sample = own @ np.concatenate(others).T
    deviation = np.sqrt(sample.var(axis=1) + 0.04)
    for span, windows in found.items():
        expected = np.full((len(own) - span + 1, 2, 40), -np.inf)
        for first in range(len(expected)):
            for number, other in enumerate(others):
                for at in range(len(other) - 2 * (span - 1)):
                    cosines = [own[first + i] @ other[at + 2 * i] for i in range(span)]
                    normal = (np.array(cosines) - sample.mean(axis=1)[first : first + span]) / deviation[
                        first : first + span
                    ]
                    expected[first, number, at] = normal.mean()
        # Sums of 20 float32 products of size 1, divided by a deviation of at least 0.2.
        np.testing.assert_allclose(windows.scores, expected.max(axis=(1, 2)), atol=1e-4)
        places = expected.reshape(len(expected), -1).argmax(axis=1)
        np.testing.assert_array_equal(windows.songs, places // 40)
        np.testing.assert_array_equal(windows.offsets, places % 40)
    assert list(found) == [span for span in SPANS if span <= 9]


def test_left_out_source_is_not_found():
    songs = [recording(1, 40), recording(2, 33)]
    scanner = Scanner(LATENT, songs)
    assert set(scanner.scan(songs[0])[3].songs) == {0}
    assert set(scanner.scan(songs[0], leave_out="r1")[3].songs) == {1}


def test_recordings_shorter_than_a_window_are_skipped():
    scanner = Scanner(LATENT, [recording(1, 40), recording(2, 10)])
    found = scanner.scan(recording(3, 40))
    assert set(found[6].songs) == {0}


def test_constant_patches_are_like_nothing():
    still = Frames("still", "still", {LATENT: np.ones((30, 5), np.float32)}, RATE, 30)
    scanner = Scanner(LATENT, [recording(1, 40), still])
    np.testing.assert_allclose(scanner.scan(still)[3].scores, 0, atol=1e-6)
