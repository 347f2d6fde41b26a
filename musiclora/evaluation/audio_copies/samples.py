"""Copy figures of several generated recordings of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from musiclora.evaluation.audio_copies.meter import AudioCopyMeter, AudioCopyResult
from musiclora.evaluation.copy_figures import CopyFigures

_LEAST_COPIED = 2  # one in a hundred unseen pieces passes the threshold: one of several samples may by chance


@dataclass(frozen=True)
class AudioSampleCopies:
    """Copy figures of samples.

    Attributes:
        similarities: of the samples, ascending.
        copied: number of samples that copy.
        share: mean share of the samples in copied spans.
        threshold: highest similarity of a piece that is no copy.
        unseen: similarities of excerpts that nobody copied, ascending; empty where there are too few recordings.
    """

    similarities: tuple[float, ...]
    copied: int
    share: float
    threshold: float
    unseen: tuple[float, ...]

    @property
    def is_copying(self) -> bool:
        """True where more samples copy than chance explains."""
        return self.copied >= min(_LEAST_COPIED, len(self.similarities))

    @property
    def columns(self) -> Sequence[tuple[str, str, str]]:
        """Heading, key of `as_row` and number format of the columns of a report."""
        return ("highest similarity", "most_similarity", ".1f"), (
            "share in copied spans",
            "copied_share",
            ".0%",
        )

    def as_row(self) -> dict[str, float]:
        """Build the entries of metrics.jsonl."""
        return {
            "samples": len(self.similarities),
            "samples_copied": self.copied,
            "most_similarity": round(self.similarities[-1], 2),
            "copied_share": round(self.share, 4),
        }

    def as_json(self) -> dict[str, Any]:
        """Build the entry of training_meta.json and of the adapter's record."""
        return {
            "samples": len(self.similarities),
            "copied": self.copied,
            "similarity": [round(value, 2) for value in self.similarities],
            "share": round(self.share, 4),
            "threshold": round(self.threshold, 2),
            "unseen_excerpts": len(self.unseen),
            "unseen_similarity": [round(value, 2) for value in self.unseen[:: max(1, len(self.unseen) - 1)]],
        }

    def line(self) -> str:
        """Format the figures as one line."""
        found = f"{self.similarities[0]:.1f} to {self.similarities[-1]:.1f}"
        text = f"{self.copied} of {len(self.similarities)} samples copy a training recording; similarity {found}"
        unseen = f", unseen recordings {self.unseen[0]:.1f} to {self.unseen[-1]:.1f}" if self.unseen else ""
        return f"{text}{unseen}, copied above {self.threshold:.1f}"


if TYPE_CHECKING:

    def _as_copy_figures(copies: AudioSampleCopies) -> CopyFigures:
        return copies


def summarise_samples(results: Sequence[AudioCopyResult], meter: AudioCopyMeter) -> AudioSampleCopies:
    """Summarise the results of samples, at least one, that a meter measured."""
    similarities = tuple(sorted(result.similarity for result in results))
    share = sum(result.share for result in results) / len(results)
    copied = sum(result.copied for result in results)
    return AudioSampleCopies(similarities, copied, share, meter.threshold, meter.calibration.scores)
