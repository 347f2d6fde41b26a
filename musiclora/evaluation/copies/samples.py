"""Copy figures of several samples of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from musiclora.evaluation.copies.calibration import Reference
from musiclora.evaluation.copies.grams import format_notes
from musiclora.evaluation.copies.meter import CopyResult

_LEAST_COPIED = 2  # one in a hundred unseen pieces passes the threshold: one of several samples may by chance


@dataclass(frozen=True)
class SampleCopies:
    """Copy figures of samples.

    Attributes:
        contents: content of each sample's longest match in notes, ascending.
        copied: number of samples that copy.
        share: mean share of the samples' notes in matches.
        reference: matches of songs that are no copies.
    """

    contents: tuple[int, ...]
    copied: int
    share: float
    reference: Reference

    @property
    def is_copying(self) -> bool:
        """True where more samples copy than chance explains."""
        return self.copied >= min(_LEAST_COPIED, len(self.contents))

    @property
    def columns(self) -> Sequence[tuple[str, str, str]]:
        """Heading, key of `as_row` and number format of the columns of a report."""
        return (
            ("longest match without repeats, notes", "most_content_notes", ".0f"),
            ("notes in matches", "copied_share", ".0%"),
        )

    def as_row(self) -> dict[str, float]:
        """Build the entries of metrics.jsonl."""
        return {
            "samples": len(self.contents),
            "samples_copied": self.copied,
            "most_content_notes": self.contents[-1],
            "copied_share": round(self.share, 4),
        }

    def as_json(self) -> dict[str, Any]:
        """Build the entry of training_meta.json and of the adapter's record."""
        return {
            "samples": len(self.contents),
            "copied": self.copied,
            "content_notes": list(self.contents),
            "share": round(self.share, 4),
            "threshold": self.reference.threshold(),
            "unseen_songs": len(self.reference.lengths),
            "unseen_content_notes": list(self.reference.lengths),
            "held_out": self.reference.held_out,
        }

    def line(self) -> str:
        """Format the figures as one line."""
        numbers = format_notes(self.contents[0], self.contents[-1], " notes")
        more = self.reference.describe()
        text = f"{self.copied} of {len(self.contents)} samples copy a training song; longest matches {numbers}"
        return f"{text}, {more}" if more else text


def summarise_copies(results: Sequence[CopyResult]) -> SampleCopies | None:
    """Summarise the results of samples that one meter measured; None without samples."""
    if not results:
        return None
    contents = tuple(sorted(result.content for result in results))
    share = sum(result.share for result in results) / len(results)
    return SampleCopies(contents, sum(result.copied for result in results), share, results[0].reference)
