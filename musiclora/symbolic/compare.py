"""Symbolic part of `musiclora evaluate --generated-dir`: copies of the training songs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from musiclora.convert.errors import printable
from musiclora.errors import DataError
from musiclora.evaluation.comparison import ComparisonPart, ComparisonRequest, FolderComparison
from musiclora.evaluation.copies.meter import CopyMeter, CopyResult
from musiclora.evaluation.copies.samples import summarise_copies
from musiclora.progress import Reporter
from musiclora.symbolic.copying import FolderNotes, notes_of_folder


@dataclass(frozen=True)
class FolderCopies:
    """Copy figures of the songs of a folder.

    Attributes:
        results: name and result of each song.
        threshold: most content of a match that is no copy, in notes.
        notes: remarks for the user.
    """

    results: Sequence[tuple[str, CopyResult]]
    threshold: int
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Build the keys `copies` and `threshold`."""
        copies = [{"file": name, **result.as_json()} for name, result in self.results]
        return {"copies": copies, "threshold": self.threshold}

    def lines(self) -> list[str]:
        """Format each song's longest match, the longest first, and their summary."""
        order = sorted(self.results, key=lambda row: -row[1].content)
        rows = [f"{printable(name)}: {result.line()}" for name, result in order]
        summary = summarise_copies([result for _, result in self.results])
        return [*rows, f"{summary.line()}; more than {self.threshold} notes count as copied"] if summary else rows


def compare_songs(request: ComparisonRequest, reporter: Reporter) -> FolderComparison:
    """Measure generated songs.

    Raises:
        DataError: a folder holds no song that can be read, or no measure of songs applies to the request.
    """
    parts: list[ComparisonPart] = []
    if request.train_dir is not None:
        parts.append(measure_copies(request, reporter))
    if not parts:
        raise DataError(
            f"--generated-dir {request.generated_dir}: holds notes and no recordings; these distances compare sound "
            "(see: musiclora render)"
        )
    return FolderComparison(tuple(parts))


def measure_copies(request: ComparisonRequest, reporter: Reporter) -> FolderCopies:
    """Measure the generated songs of a request against its training songs.

    The scale are the songs of --reference-dir, or the training songs among each other.

    Raises:
        DataError: a folder holds no song that can be read, or none that is long enough.
    """
    folders = {"--generated-dir": request.generated_dir, "--train-dir": request.train_dir}
    folders |= {"--reference-dir": request.reference_dir} if request.reference_dir else {}
    found: dict[str, FolderNotes] = {}
    for option, folder in folders.items():
        if folder is not None:
            found[option] = notes_of_folder(folder, reporter, f"reading {option}")
    held_out = found["--reference-dir"].songs if "--reference-dir" in found else []
    meter = CopyMeter.from_songs(found["--train-dir"].songs, held_out)
    with reporter.task("comparing") as update:
        results = []
        for done, song in enumerate(found["--generated-dir"].songs, 1):
            results.append((song.name, meter.measure(song)))
            update(done, len(found["--generated-dir"].songs))
    remarks = [f"{option}: {note}" for option, part in found.items() for note in part.notes]
    return FolderCopies(results, meter.threshold, (*remarks, *meter.notes))
