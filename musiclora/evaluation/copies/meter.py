"""Copy meter: the longest match of a piece with the training songs, beside that of songs which nobody copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from musiclora.errors import DataError
from musiclora.evaluation.copies.calibration import Reference, calibrate
from musiclora.evaluation.copies.grams import GRAM_NOTES, format_notes
from musiclora.evaluation.copies.index import CopyIndex
from musiclora.evaluation.copies.matches import Match
from musiclora.evaluation.copies.measure import Measure, measure_piece
from musiclora.evaluation.copies.notes import NoteList


@dataclass(frozen=True, eq=False)
class CopyResult:
    """Copy figures of one piece.

    Attributes:
        copied: the content of the longest match passes the threshold.
        longest_match_notes: notes of the longest match; 0 where not even an n-gram agrees.
        content: the same, with patterns that repeat counted once; this is what is compared.
        longest_match_bars: bars of the piece that it touches.
        share: share of the piece's notes in matches of at least `measure.LEAST_NOTES` notes, 0 to 1.
        song: name of the song; None without a match, and where names are not known.
        bars: first and last bar of the match in the piece, from 1 on.
        song_bars: the same in the song.
        threshold: most content of a match that is no copy, for a piece of this length.
        reference: matches of songs that are no copies.
        matches: all matches that count, the longest first.
        copied_notes: int64, indices of the piece's notes in them.
    """

    copied: bool
    longest_match_notes: int
    content: int
    longest_match_bars: int
    share: float
    song: str | None
    bars: tuple[int, int] | None
    song_bars: tuple[int, int] | None
    threshold: int
    reference: Reference
    matches: tuple[Match, ...]
    copied_notes: np.ndarray

    @property
    def rank(self) -> tuple[int, int]:
        """Count the reference songs whose longest match is shorter, and whose share is smaller."""
        shorter = sum(length < self.content for length in self.reference.lengths)
        return shorter, sum(share < self.share for share in self.reference.shares)

    @property
    def copied_matches(self) -> tuple[Match, ...]:
        """Matches that pass the threshold, the longest first."""
        return tuple(match for match in self.matches if match.content > self.threshold)

    @property
    def copied_spans(self) -> tuple[tuple[float, float], ...]:
        """First and last onset of the matches that pass the threshold, in quarter notes of the piece."""
        return tuple(sorted(match.span for match in self.copied_matches))

    def as_json(self) -> dict[str, Any]:
        """Build the entry for `--json`."""
        return {
            "copied": self.copied,
            "longest_match_notes": self.longest_match_notes,
            "content_notes": self.content,
            "longest_match_bars": self.longest_match_bars,
            "share": round(self.share, 4),
            "song": self.song,
            "bars": list(self.bars) if self.bars else None,
            "song_bars": list(self.song_bars) if self.song_bars else None,
            "threshold": self.threshold,
            "unseen": {
                "songs": len(self.reference.lengths),
                "held_out": self.reference.held_out,
                "content_notes": list(self.reference.lengths[:: max(1, len(self.reference.lengths) - 1)]),
                "shorter": self.rank[0],
                "smaller_share": self.rank[1],
            },
        }

    def line(self) -> str:
        """Format the longest match, where it is, and the range of the reference songs."""
        notes = format_notes(self.longest_match_notes, self.longest_match_notes, " notes")
        text = f"{'copied: ' if self.copied else ''}longest match {notes}"
        if self.content < self.longest_match_notes:
            text += f", {self.content} without repeats"
        if self.bars and self.copied:
            text += f" in {_format_bars(self.bars)}"
            if self.song and self.song_bars:
                text += f", {_format_bars(self.song_bars)} of {self.song}"
        more = self.reference.describe()
        return f"{text}; {more}" if more else text


def _format_bars(bars: tuple[int, int]) -> str:
    return f"bar {bars[0]}" if bars[0] == bars[1] else f"bars {bars[0]} to {bars[1]}"


class CopyMeter:
    """Measures pieces against the songs of one training run.

    Attributes:
        reference: matches of songs that are no copies.
        notes: remarks for the user.
    """

    def __init__(
        self, measure: Callable[[NoteList], Measure], reference: Reference, songs: Sequence[NoteList] = ()
    ) -> None:
        """Build a meter from its parts; see `from_songs` and `index_file.read_copy_index`.

        Args:
            measure: finds the matches of a piece.
            reference: matches of songs that are no copies.
            songs: by number, where they are at hand.
        """
        self._measure = measure
        self.reference = reference
        self._songs = songs
        self.notes: tuple[str, ...] = ()

    @classmethod
    def from_songs(cls, train: Sequence[NoteList], held_out: Sequence[NoteList] = ()) -> CopyMeter:
        """Index training songs, and measure held-out songs as the scale.

        Raises:
            DataError: no training song has as many notes as an n-gram.
        """
        songs, short = split_short(train)
        if not songs:
            raise DataError(f"no song to compare with has {GRAM_NOTES} notes in one line; copies cannot be measured")
        index = CopyIndex(songs)
        unseen, _ = split_short(held_out)
        reference = calibrate(songs, unseen, lambda piece, leave_out: measure_piece(piece, index, leave_out))
        meter = cls(lambda piece: measure_piece(piece, index), reference, songs)
        meter.notes = tuple(describe_reference(reference, len(songs), short))
        return meter

    @property
    def threshold(self) -> int:
        """Most content of a match that is no copy, in notes, for a piece as long as the reference songs."""
        return self.reference.threshold()

    def measure(self, piece: NoteList) -> CopyResult:
        """Measure one piece."""
        found = self._measure(piece)
        threshold, longest = self.reference.threshold(len(piece)), found.longest
        bars = (piece.bar_of(longest.span[0]), piece.bar_of(longest.span[1])) if longest else None
        song = self._songs[longest.song] if longest and self._songs else None
        song_bars = None
        if song and longest and longest.song_span:
            song_bars = (song.bar_of(longest.song_span[0]), song.bar_of(longest.song_span[1]))
        return CopyResult(
            found.content > threshold,
            longest.length if longest else 0,
            found.content,
            bars[1] - bars[0] + 1 if bars else 0,
            found.share,
            song.name if song else None,
            bars,
            song_bars,
            threshold,
            self.reference,
            found.matches,
            found.copied_notes,
        )


def split_short(songs: Sequence[NoteList]) -> tuple[list[NoteList], int]:
    """Return the songs that have as many notes as an n-gram, and the number of the others."""
    kept = [song for song in songs if len(song) >= GRAM_NOTES]
    return kept, len(songs) - len(kept)


def describe_reference(reference: Reference, songs: int, short: int) -> list[str]:
    """Say which songs were left out, and where there are too few to tell a copy from chance."""
    lines = []
    if short:
        lines.append(f"{short} of the training songs have fewer than {GRAM_NOTES} notes: left out of the copy meter")
    if reference.duplicates:
        what = "held-out songs" if reference.held_out else "training songs"
        lines.append(f"{reference.duplicates} {what} are versions of other training songs: no scale for copies")
    if not reference.is_fitted:
        lines.append(
            f"too few songs ({songs} trained on, {len(reference.lengths)} to compare) to tell chance from copying: a "
            f"match of more than {reference.threshold()} notes counts as copied"
        )
    return lines
