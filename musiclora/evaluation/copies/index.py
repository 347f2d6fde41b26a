"""Index of the melodic n-grams of many songs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.evaluation.copies.grams import GRAM_NOTES, gram_keys
from musiclora.evaluation.copies.notes import NoteList, melodic_lines


@dataclass(frozen=True, eq=False)
class Lines:
    """Melodic lines of one or more pieces, one after the other in flat arrays.

    Attributes:
        onsets: float64 [m], quarter notes.
        pitches: int64 [m].
        notes: int64 [m], index of the note in its piece.
        line: int64 [m], number of the line.
        starts: int64 [lines + 1], position of each line's first note.
        pieces: int64 [lines], piece of each line.
        keys: uint64 [grams], n-gram keys in order of position.
        places: int64 [grams], position of each n-gram's first note.
    """

    onsets: np.ndarray
    pitches: np.ndarray
    notes: np.ndarray
    line: np.ndarray
    starts: np.ndarray
    pieces: np.ndarray
    keys: np.ndarray
    places: np.ndarray


def flatten_lines(pieces: Sequence[NoteList]) -> Lines:
    """Collect the lines of pieces; see `notes.melodic_lines`."""
    lines = [(i, piece, line) for i, piece in enumerate(pieces) for line in melodic_lines(piece)]
    sizes = [len(line) for _, _, line in lines]
    starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    onsets = [piece.onsets[line] for _, piece, line in lines]
    pitches = [piece.pitches[line].astype(np.int64) for _, piece, line in lines]
    keys = [gram_keys(on, pitch) for on, pitch in zip(onsets, pitches, strict=True)]
    places = [start + np.arange(len(own)) for start, own in zip(starts, keys, strict=False)]
    return Lines(
        _join(onsets, np.float64),
        _join(pitches, np.int64),
        _join([line for _, _, line in lines], np.int64),
        np.repeat(np.arange(len(lines)), sizes),
        starts,
        np.array([i for i, _, _ in lines], np.int64),
        _join(keys, np.uint64),
        _join(places, np.int64),
    )


def _join(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype, copy=False)


class CopyIndex:
    """Songs and their n-grams, sorted for look-up.

    Attributes:
        songs: the songs, in the order of their numbers.
        lines: their melodic lines.
    """

    def __init__(self, songs: Sequence[NoteList]) -> None:
        """Index the lines of songs."""
        self.songs = tuple(songs)
        self.lines = flatten_lines(self.songs)
        order = np.argsort(self.lines.keys, kind="stable")
        self._keys, self._places = self.lines.keys[order], self.lines.places[order]
        self._by_pitch: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def look_up(self, keys: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the places of n-grams.

        Args:
            keys: uint64 [q].
            most: places returned for one n-gram; of a more frequent one, evenly spaced ones.

        Returns:
            Two int64 [hits]: index into `keys`, and position in `lines`.
        """
        low = np.searchsorted(self._keys, keys, side="left")
        count = np.searchsorted(self._keys, keys, side="right") - low
        taken = np.minimum(count, most)
        query = np.repeat(np.arange(len(keys)), taken)
        rank = np.arange(len(query)) - np.repeat(np.cumsum(taken) - taken, taken)
        stride = count[query] / np.maximum(taken[query], 1)
        return query, self._places[low[query] + (rank * stride).astype(np.int64)]

    def notes_of_line(self, line: int) -> tuple[np.ndarray, np.ndarray]:
        """Return onsets and pitches of a song's line, float64 and int64 [m]."""
        part = slice(self.lines.starts[line], self.lines.starts[line + 1])
        return self.lines.onsets[part], self.lines.pitches[part]

    def gram_count(self) -> int:
        """Count the n-grams, repeated ones included."""
        return len(self._keys)


def grams_of(place: np.ndarray) -> np.ndarray:
    """Return the positions of the notes of n-grams, int64 [grams, 6]."""
    return place[:, None] + np.arange(GRAM_NOTES)
