"""Measure of one piece: the longest run that a song holds, and the share of its notes in such runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from musiclora.evaluation.copies.alignment import find_alignments
from musiclora.evaluation.copies.index import CopyIndex, flatten_lines
from musiclora.evaluation.copies.matches import Match, find_matches, match_notes
from musiclora.evaluation.copies.notes import NoteList

LEAST_NOTES = 8  # content of a match that counts in the share


@dataclass(frozen=True, eq=False)
class Measure:
    """Agreement of one piece with the songs of an index.

    Attributes:
        longest: the match with most content, None where no n-gram agrees.
        matches: matches with a content of at least LEAST_NOTES notes, that with most first.
        copied_notes: int64, indices of the piece's notes inside those matches, chord notes that agree included.
        share: share of the piece's notes that these are, 0 to 1.
    """

    longest: Match | None
    matches: tuple[Match, ...]
    copied_notes: np.ndarray
    share: float

    @property
    def content(self) -> int:
        """Content of the longest match in notes, 0 without one."""
        return self.longest.content if self.longest else 0


def measure_piece(piece: NoteList, index: CopyIndex, leave_out: int = -1) -> Measure:
    """Find where a piece agrees with the songs of an index.

    Args:
        piece: the piece.
        index: the songs.
        leave_out: number of a song that does not count, such as the piece itself.
    """
    lines = flatten_lines([piece])
    found: list[Match] = []
    for alignment in find_alignments(lines, index, leave_out):
        found += find_matches(alignment, lines, index)
    found.sort(key=lambda match: (-match.content, -match.length))
    counted = tuple(_without_repeats(match for match in found if match.content >= LEAST_NOTES))
    notes = [lines.notes[match.piece_places] for match in counted]
    notes += [_chord_notes(piece, match, index.songs[match.song]) for match in counted]
    copied = np.unique(np.concatenate(notes)) if notes else np.zeros(0, np.int64)
    return Measure(found[0] if found else None, counted, copied, len(copied) / max(1, len(piece)))


def _without_repeats(matches: Iterator[Match]) -> Iterator[Match]:
    """Leave out matches whose span in the piece lies inside that of a longer match with the same song."""
    seen: list[Match] = []
    for match in matches:
        if not any(
            other.song == match.song and other.span[0] <= match.span[0] and match.span[1] <= other.span[1]
            for other in seen
        ):
            seen.append(match)
            yield match


def _chord_notes(piece: NoteList, match: Match, song: NoteList) -> np.ndarray:
    """Return the indices of all notes in the span of a match that the song has too, int64."""
    inside = np.flatnonzero((piece.onsets >= match.span[0]) & (piece.onsets <= match.span[1]))
    mapped = match.ratio * piece.onsets[inside] + match.offset
    partner = match_notes(
        mapped, piece.pitches[inside].astype(np.int64) + match.transposition, song.onsets, song.pitches.astype(np.int64)
    )
    return inside[partner >= 0]
