"""Hashed n-grams of songs: enough to find that a piece copies a song, not to read the song's notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from musiclora.evaluation.copies.grams import GRAM_NOTES, hash_keys
from musiclora.evaluation.copies.index import flatten_lines, grams_of
from musiclora.evaluation.copies.matches import Match, count_content
from musiclora.evaluation.copies.measure import LEAST_NOTES, Measure
from musiclora.evaluation.copies.notes import NoteList

# From one n-gram of a run to the next: 1, or across those that one edit breaks. A changed or added note breaks the
# GRAM_NOTES that hold it, a missing one those that span its place, a shifted onset those that hold its ratios.
_STEPS = (1, GRAM_NOTES - 1, GRAM_NOTES, GRAM_NOTES + 1)


@dataclass(frozen=True, eq=False)
class HashedIndex:
    """Hashed n-grams of songs, without their order.

    Attributes:
        hashes: uint32 [grams], ascending; each hash once for each song.
        songs: uint32 [grams], number of the song.
    """

    hashes: np.ndarray
    songs: np.ndarray

    def measure(self, piece: NoteList, leave_out: int = -1) -> Measure:
        """Find runs of a piece whose n-grams one song holds; their order in the song is not known.

        Edits lower the content of a run, since the n-grams that hold them are not found.

        Args:
            piece: the piece.
            leave_out: number of a song that does not count.
        """
        lines = flatten_lines([piece])
        wanted = hash_keys(lines.keys)
        low = np.searchsorted(self.hashes, wanted, side="left")
        count = np.searchsorted(self.hashes, wanted, side="right") - low
        query = np.repeat(np.arange(len(wanted)), count)
        rank = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
        song = self.songs[low[query] + rank].astype(np.int64)
        kept = song != leave_out
        place, song = lines.places[query[kept]], song[kept]
        line = lines.line[place]
        order = np.lexsort((place, line, song))
        place, line, song, key = place[order], line[order], song[order], wanted[query[kept]][order]
        new = (np.diff(song) != 0) | (np.diff(line) != 0) | ~np.isin(np.diff(place), _STEPS)
        bounds = np.concatenate(([0], np.flatnonzero(new) + 1, [len(place)])) if len(place) else np.zeros(1, int)
        matches = []
        for first, last in pairwise(bounds.tolist()):
            covered = np.unique(grams_of(place[first:last]))
            span = float(lines.onsets[covered[0]]), float(lines.onsets[covered[-1]])
            content = count_content(key[first:last])
            matches.append(Match(int(song[first]), len(covered), content, covered, span, None, 0, 1.0, 0.0))
        matches.sort(key=lambda match: (-match.content, -match.length))
        counted = tuple(match for match in matches if match.content >= LEAST_NOTES)
        notes = [lines.notes[match.piece_places] for match in counted]
        copied = np.unique(np.concatenate(notes)) if notes else np.zeros(0, np.int64)
        return Measure(matches[0] if matches else None, counted, copied, len(copied) / max(1, len(piece)))


def hash_songs(songs: Sequence[NoteList]) -> HashedIndex:
    """Hash the n-grams of songs, numbered in their order."""
    lines = flatten_lines(songs)
    number = lines.pieces[lines.line[lines.places]]
    return _sort_pairs(hash_keys(lines.keys), number)


def join_indexes(first: HashedIndex, second: HashedIndex) -> HashedIndex:
    """Join the songs of two indexes; those of the second are numbered after the first's."""
    after = int(first.songs.max()) + 1 if len(first.songs) else 0
    hashes = np.concatenate((first.hashes, second.hashes))
    return _sort_pairs(hashes, np.concatenate((first.songs.astype(np.int64), second.songs.astype(np.int64) + after)))


def _sort_pairs(hashes: np.ndarray, songs: np.ndarray) -> HashedIndex:
    pairs = np.unique(hashes.astype(np.uint64) << np.uint64(32) | songs.astype(np.uint64))
    return HashedIndex((pairs >> np.uint64(32)).astype(np.uint32), (pairs & np.uint64(0xFFFFFFFF)).astype(np.uint32))
