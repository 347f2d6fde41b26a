"""Symbolic part of `musiclora evaluate --generated-dir`."""

from __future__ import annotations

from musiclora.errors import DataError
from musiclora.evaluation.comparison import ComparisonPart, ComparisonRequest, FolderComparison
from musiclora.progress import Reporter


def compare_songs(request: ComparisonRequest, reporter: Reporter) -> FolderComparison:
    """Measure generated songs.

    Raises:
        DataError: no measure of songs applies to the request.
    """
    parts: list[ComparisonPart] = []
    if not parts:
        raise DataError(
            f"--generated-dir {request.generated_dir}: holds notes and no recordings; these distances compare sound "
            "(see: musiclora render)"
        )
    return FolderComparison(tuple(parts))
