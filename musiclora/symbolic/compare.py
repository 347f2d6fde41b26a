"""Symbolic part of `musiclora evaluate --generated-dir`: style card, and copies of the training songs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.convert.errors import list_names, printable
from musiclora.convert.files.outputs import check_outputs
from musiclora.errors import ConfigError, DataError
from musiclora.evaluation.comparison import ComparisonPart, ComparisonRequest, FolderComparison
from musiclora.evaluation.copies.meter import CopyMeter, CopyResult
from musiclora.evaluation.copies.samples import summarise_copies
from musiclora.evaluation.measure import are_same_pieces, check_picture, split_base_versions
from musiclora.evaluation.style.card import StyleCard
from musiclora.evaluation.style.compare import compare_styles
from musiclora.evaluation.style.plot import style_picture
from musiclora.families import spec_of_data
from musiclora.formats import BASE_MARK
from musiclora.progress import Reporter
from musiclora.symbolic.copying import FolderSongs, read_songs_of
from musiclora.symbolic.style import events_of


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


@dataclass(frozen=True)
class _Remarks:
    """Remarks on the folders of a comparison."""

    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {}

    def lines(self) -> list[str]:
        return []


def compare_songs(request: ComparisonRequest, reporter: Reporter) -> FolderComparison:
    """Measure generated songs.

    Raises:
        ConfigError: an option that recordings alone have, or a picture that cannot be written.
        DataError: a folder holds no song that can be read, or too few for any measure.
    """
    _check_options(request)
    songs = _read_folders(request, reporter)
    notes = [f"{option}: {note}" for option, part in songs.items() for note in part.notes]
    made, bases = _split_bases(songs["--generated-dir"], notes, request.baseline_dir is not None)
    songs |= {"--generated-dir": made, **({"--baseline-dir": bases} if bases.songs else {})}
    parts: list[ComparisonPart] = [_Remarks(tuple(notes))]
    if request.train_dir is not None:
        parts.append(measure_copies(songs, reporter))
    if request.reference_dir is not None:
        try:
            card = _measure_style(songs, reporter)
        except DataError as error:
            if request.train_dir is None or request.picture:
                raise
            parts.append(_Remarks((str(error),)))
        else:
            parts.append(card)
            if request.picture:
                style_picture(request.picture, card, overwrite=request.overwrite)
    return FolderComparison(tuple(parts))


def _check_options(request: ComparisonRequest) -> None:
    """Refuse options of recordings, and a picture that nothing draws or that cannot be written."""
    given = [name for name, asked in (("--paired", request.paired), ("--rank", request.rank)) if asked]
    if given:
        raise ConfigError(f"{list_names(given, 2)}: for recordings only, and --generated-dir holds songs")
    if request.reference_dir is None and (request.picture or request.baseline_dir):
        option = "--picture" if request.picture else "--baseline-dir"
        raise ConfigError(f"{option}: belongs to the style card of songs, which takes --reference-dir")
    if picture := request.picture:
        check_picture(picture)
        check_outputs("--picture", [picture], {}, overwrite=request.overwrite)


def _read_folders(request: ComparisonRequest, reporter: Reporter) -> dict[str, FolderSongs]:
    """Read every folder of a request once, by the option that names it."""
    folders: dict[str, Path | None] = {
        "--generated-dir": request.generated_dir,
        "--train-dir": request.train_dir,
        "--reference-dir": request.reference_dir,
        "--baseline-dir": request.baseline_dir,
    }
    given = {option: folder for option, folder in folders.items() if folder is not None}
    for option, folder in given.items():
        found = spec_of_data(folder) if folder.exists() else None
        if found and found.family != "symbolic":
            raise DataError(
                f"{option} {folder}: holds {found.data} and no songs; musiclora render makes recordings of songs"
            )
    return {option: read_songs_of(folder, reporter, f"reading {option}") for option, folder in given.items()}


def _split_bases(made: FolderSongs, notes: list[str], has_baseline: bool) -> tuple[FolderSongs, FolderSongs]:
    """Split off the base's versions that `generate --compare` wrote, and say what becomes of them."""
    _, bases = split_base_versions([Path(song.name) for song in made.songs])
    names = {path.as_posix() for path in bases}
    if not names:
        return made, FolderSongs([])
    taken = "left out" if has_baseline else "taken as the baseline"
    notes.append(f"{len(names)} files whose names end in {BASE_MARK} are by the base alone: {taken}")
    own = FolderSongs([song for song in made.songs if song.name not in names])
    others = [] if has_baseline else [song for song in made.songs if song.name in names]
    return own, FolderSongs(others)


def measure_copies(songs: dict[str, FolderSongs], reporter: Reporter) -> FolderCopies:
    """Measure generated songs against training songs.

    The scale are the songs of --reference-dir, or the training songs among each other.

    Args:
        songs: by option.
        reporter: shows progress.

    Raises:
        DataError: no song that is long enough.
    """
    held_out = songs["--reference-dir"].note_lists() if "--reference-dir" in songs else []
    meter = CopyMeter.from_songs(songs["--train-dir"].note_lists(), held_out)
    made = songs["--generated-dir"].note_lists()
    results = []
    with reporter.task("looking for copies") as update:
        for done, song in enumerate(made, 1):
            results.append((song.name, meter.measure(song)))
            update(done, len(made))
    return FolderCopies(results, meter.threshold, tuple(meter.notes))


def _measure_style(songs: dict[str, FolderSongs], reporter: Reporter) -> StyleCard:
    """Compare the distributions of generated and real songs."""
    events = {option: [events_of(song.name, song.score) for song in part.songs] for option, part in songs.items()}
    made, bases = ([piece.name for piece in events.get(o, ())] for o in ("--generated-dir", "--baseline-dir"))
    with reporter.task("comparing styles"):
        return compare_styles(
            events["--reference-dir"],
            events["--generated-dir"],
            events.get("--baseline-dir", []),
            events.get("--train-dir", []),
            matched=bool(bases) and are_same_pieces(made, bases),
        )
