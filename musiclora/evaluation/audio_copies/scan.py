"""Scan of a piece over training recordings: running means of patch similarity along diagonals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.evaluation.audio_copies.features import Frames, View

SPANS = (3, 6, 12, 24)  # patches of a window, each half a patch on: 2.2, 3.9, 7.2 and 13.9 s
_LEAST_SPREAD = 0.15  # of the mean norm of a patch: held notes and silence vary less, and would agree with each other
_SOFT = 0.2  # added to a patch's deviation, so that rare content does not count as a copy
_SAMPLE_PATCHES = 2000  # of the training recordings, for mean and deviation
_CACHE_BYTES = 1 << 30  # of patches; those of more recordings are built again for each piece
_GIVEN = -10.0  # score of patches that the user gave, so that no window with one is a copy


@dataclass(frozen=True, eq=False)
class BestWindows:
    """Most similar window of any training recording, for each window of a piece.

    Attributes:
        scores: float32 [W], mean normalised similarity of the patches.
        songs: int64 [W], number of the recording.
        offsets: int64 [W], its first row there.
        keys: int64 [W], semitones from the piece to the recording.
    """

    scores: np.ndarray
    songs: np.ndarray
    offsets: np.ndarray
    keys: np.ndarray


class Scanner:
    """Compares pieces with the training recordings in one view.

    The similarity of two patches is the cosine of their features, each column centred over the patch: gain and filters
    add a constant to each band of a logarithmic spectrum and then do not count. It is normalised by the mean and the
    deviation of the piece's patch over patches of all recordings, since a held note is like many others.
    """

    def __init__(self, view: View, songs: Sequence[Frames]) -> None:
        """Cut the training recordings into patches, at least one recording."""
        self.view, self._songs = view, songs
        self.hop = songs[0].hop // view.pooled  # rows
        stacked = [song.rows[view] for song in songs]
        deviation = np.concatenate(stacked).std(axis=0) if view.scaled else np.ones(stacked[0].shape[1])
        self._scale = np.maximum(deviation, 1e-6).astype(np.float32)
        patches = [_cut_patches(rows / self._scale, self.hop, self.hop) for rows in stacked]
        norm = float(np.linalg.norm(np.concatenate(patches), axis=1).mean())
        self._floor = max(_LEAST_SPREAD * norm, 1e-6)
        size = sum(rows.size for rows in stacked) * 2 * self.hop * 4
        self._cache: dict[int, np.ndarray] | None = {} if size <= _CACHE_BYTES else None
        self._sample, self._sample_songs = self._draw_sample()

    def scan(self, piece: Frames, leave_out: str = "") -> dict[int, BestWindows]:
        """Find the most similar window for each window of a piece, by the window's patches.

        Args:
            piece: the recording to look for.
            leave_out: source whose recordings do not count, such as the piece's own.
        """
        numbers = [n for n, song in enumerate(self._songs) if not leave_out or song.source != leave_out]
        best = {
            span: BestWindows(np.full(count, -np.inf, np.float32), *np.zeros((3, count), np.int64))
            for span in SPANS
            if (count := piece.patches - span + 1) > 0
        }
        sample = self._sample[np.isin(self._sample_songs, numbers)]
        for key in self.view.keys:
            rows, offset = self._normalised(piece, key, sample)
            for number in numbers:
                similarity = rows @ self._song_patches(number).T
                similarity -= offset[:, None]
                for span, windows in self._windows(similarity):
                    _keep_better(best[span], windows / np.float32(span), number, key)
        return best

    def diagonal(self, piece: Frames, song: int, key: int, offset: int) -> tuple[np.ndarray, np.ndarray]:
        """Compare each patch of a piece with the patch of a recording at one offset.

        Args:
            piece: the piece.
            song: number of the recording.
            key: semitones from the piece to the recording.
            offset: row of the recording at the piece's first row; may be negative.

        Returns:
            Normalised similarity and cosine, float32 [patches]; -inf where the recording has no patch.
        """
        rows, shift = self._normalised(piece, key, self._sample)
        patches = self._piece_patches(piece, key)
        other = self._song_patches(song)
        places = offset + self.hop * np.arange(len(rows))
        inside = (places >= 0) & (places < len(other))
        partner = other[np.where(inside, places, 0)]
        found = [np.einsum("pd,pd->p", left, partner) for left in (rows, patches)]
        return np.where(inside, found[0] - shift, -np.inf), np.where(inside, found[1], -np.inf)

    def _windows(self, similarity: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the sums of patch similarities along diagonals, [windows, offsets], by the number of patches."""
        span, step = SPANS[0], self.hop
        rows, columns = (size - (span - 1) * by for size, by in zip(similarity.shape, (1, step), strict=True))
        if min(rows, columns) <= 0:
            return
        parts = [similarity[i : i + rows, i * step : i * step + columns] for i in range(span)]
        windows = parts[0] + parts[1]
        for part in parts[2:]:
            windows += part
        yield span, windows
        for longer in SPANS[1:]:
            shift, span = span, longer  # each is twice the one before
            if windows.shape[0] <= shift or windows.shape[1] <= shift * step:
                return
            windows = windows[:-shift, : -shift * step] + windows[shift:, shift * step :]
            yield span, windows

    def _normalised(self, piece: Frames, key: int, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a piece's patches divided by their soft deviation, and what to subtract from the products."""
        rows = self._piece_patches(piece, key)
        products = rows @ sample.T
        deviation = np.sqrt(products.var(axis=1) + _SOFT**2)
        offset = products.mean(axis=1) / deviation
        rows = rows / deviation[:, None]
        if piece.new is not None:
            given = ~piece.new_patches
            rows[given], offset[given] = 0, -_GIVEN
        return rows, offset

    def _piece_patches(self, piece: Frames, key: int) -> np.ndarray:
        rows = piece.rows[self.view] / self._scale
        if key:
            rows = np.roll(rows, key, axis=1)
        return self._unit(_cut_patches(rows, self.hop, self.hop))[: piece.patches]

    def _song_patches(self, number: int) -> np.ndarray:
        """Return the patches of a recording at every row, float32 [offsets, values]."""
        if self._cache is not None and number in self._cache:
            return self._cache[number]
        patches = self._unit(_cut_patches(self._songs[number].rows[self.view] / self._scale, self.hop, 1))
        if self._cache is not None:
            self._cache[number] = patches
        return patches

    def _unit(self, patches: np.ndarray) -> np.ndarray:
        """Divide patches by their norm, or by the floor where it is less."""
        patches /= np.maximum(np.linalg.norm(patches, axis=1), self._floor)[:, None]
        return patches

    def _draw_sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Take patches of all recordings at even distances, and the number of each one's recording."""
        total = sum(len(song.rows[self.view]) for song in self._songs)
        step = max(1, total // _SAMPLE_PATCHES)
        parts = [self._unit(_cut_patches(song.rows[self.view] / self._scale, self.hop, step)) for song in self._songs]
        return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _cut_patches(rows: np.ndarray, hop: int, step: int) -> np.ndarray:
    """Cut patches of two hops, every `step` rows, each column centred: [T, B] to float32 [n, 2 * hop * B]."""
    views = np.lib.stride_tricks.sliding_window_view(rows, 2 * hop, axis=0)[::step]
    centred = views - views.mean(axis=2, keepdims=True)
    patches: np.ndarray = centred.reshape(len(views), -1)
    return patches


def _keep_better(best: BestWindows, scores: np.ndarray, song: int, key: int) -> None:
    """Replace what a recording's windows [windows, offsets] exceed."""
    at = scores.argmax(axis=1)
    values = scores[np.arange(len(at)), at]
    better = values > best.scores
    best.scores[better], best.offsets[better] = values[better], at[better]
    best.songs[better], best.keys[better] = song, key
