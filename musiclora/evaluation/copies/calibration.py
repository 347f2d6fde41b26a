"""Calibration: how long the matches of songs are that nobody copied, and from which length on a match is a copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.evaluation.copies.grams import GRAM_NOTES, format_notes
from musiclora.evaluation.copies.measure import LEAST_NOTES, Measure
from musiclora.evaluation.copies.notes import NoteList

FALSE_ALARM = 0.01  # share of unseen pieces that may pass the threshold
LEAST_SONGS = 4  # for a fit
MOST_SONGS = 60  # measured against each other
DEFAULT_THRESHOLD = 12  # notes, where there are too few songs for a fit
_DUPLICATE_SHARE, _DUPLICATE_NOTES = 0.5, 16  # a match beyond both is another version of the same song
_EULER = 0.5772156649015329


@dataclass(frozen=True)
class Reference:
    """Matches of songs that are no copies, as a scale for the match of a piece.

    Attributes:
        lengths: content of the longest match of each song in notes, ascending.
        shares: share of each song's notes in matches, ascending.
        notes: mean number of notes of these songs.
        held_out: True for songs that were held out, False for training songs measured against each other.
        duplicates: songs left out as other versions of a training song.
    """

    lengths: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    notes: float = 0.0
    held_out: bool = False
    duplicates: int = 0

    @property
    def is_fitted(self) -> bool:
        """True where there are enough songs to fit the threshold."""
        return len(self.lengths) >= LEAST_SONGS

    def threshold(self, notes: int | None = None) -> int:
        """Return the most notes that a match of an unseen piece has, but for one piece in a hundred.

        Longest common runs of unrelated sequences follow a Gumbel distribution whose location grows with the logarithm
        of the length (Karlin and Altschul 1990); it is fitted by moments. Matches shorter than an n-gram are not seen
        and count as one note less than it.

        Args:
            notes: number of notes of the piece; None means as many as the songs have.
        """
        if not self.is_fitted:
            return DEFAULT_THRESHOLD
        lengths = np.maximum(self.lengths, GRAM_NOTES - 1)
        scale = max(float(lengths.std(ddof=1)) * math.sqrt(6) / math.pi, 0.5)
        location = float(lengths.mean()) - _EULER * scale
        location += scale * math.log(max(1.0, (notes or 0) / max(self.notes, 1.0)))
        quantile = location - scale * math.log(-math.log(1 - FALSE_ALARM))
        return max(LEAST_NOTES, round(quantile))

    def describe(self) -> str:
        """Format the range of lengths, such as 'unseen songs of this artist: 7 to 12'; empty without songs."""
        if not self.lengths:
            return ""
        numbers = format_notes(self.lengths[0], self.lengths[-1])
        if self.held_out:
            return f"unseen songs of this artist: {numbers}"
        return f"songs of this artist share {numbers} with each other"


def calibrate(
    train: Sequence[NoteList],
    held_out: Sequence[NoteList],
    measure: Callable[[NoteList, int], Measure],
) -> Reference:
    """Measure held-out songs, or training songs against each other where fewer than LEAST_SONGS were held out.

    Args:
        train: songs of the index; MOST_SONGS evenly spaced ones are measured.
        held_out: other songs of the artist.
        measure: measures a piece, without the song of a number (-1: with all).
    """
    from_held_out = len(held_out) >= LEAST_SONGS
    if from_held_out:
        pieces = list(held_out)
        measures = [measure(piece, -1) for piece in pieces]
    elif len(train) > 1:
        chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), MOST_SONGS)).round().astype(int)).tolist()
        pieces = [train[i] for i in chosen] + list(held_out)
        measures = [measure(train[i], i) for i in chosen] + [measure(piece, -1) for piece in held_out]
    else:
        pieces = list(held_out)
        measures = [measure(piece, -1) for piece in pieces]
    new = [not (m.share > _DUPLICATE_SHARE and m.content >= _DUPLICATE_NOTES) for m in measures]
    kept = [m for m, is_new in zip(measures, new, strict=True) if is_new]
    sizes = [len(piece) for piece, is_new in zip(pieces, new, strict=True) if is_new]
    return Reference(
        tuple(sorted(m.content for m in kept)),
        tuple(sorted(m.share for m in kept)),
        float(np.mean(sizes)) if sizes else 0.0,
        from_held_out,
        len(measures) - len(kept),
    )
