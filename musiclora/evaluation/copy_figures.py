"""Copy figures of several samples of one model, as training asks for them from every family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class CopyFigures(Protocol):
    """Copy figures of samples, for the metrics, the record and the report of a run."""

    @property
    def is_copying(self) -> bool:
        """True where more samples copy than chance explains."""

    @property
    def columns(self) -> Sequence[tuple[str, str, str]]:
        """Heading, key of `as_row` and number format of the family's own columns in the report."""

    def as_row(self) -> dict[str, float]:
        """Build the entries of metrics.jsonl: `samples`, `samples_copied` and the family's own."""

    def as_json(self) -> dict[str, Any]:
        """Build the entry of training_meta.json and of the adapter's record; no name of a song."""

    def line(self) -> str:
        """Format the figures as one line."""
