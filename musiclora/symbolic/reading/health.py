"""Health table of a music folder: each file and tune kept, repaired or skipped, with the reason."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from musiclora.errors import list_names
from musiclora.symbolic.tokens.kept import Kept, kept_from_json

Status = Literal["kept", "repaired", "skipped"]
SAME_AS_A_COPY = "to this tokenizer the same as another copy of its song"
_LONGEST_TEXT = 200  # characters, in messages
SONG_COLUMNS = ("file", "tune", "status", "tracks", "notes", "seconds", "why")


@dataclass(frozen=True, kw_only=True)
class SongCounts:
    """Counts of one song.

    Attributes:
        tracks: number of tracks with notes.
        notes: number of notes that are used; without a tokenizer, all.
        drums: number of drum notes that are not used.
        outside: number of notes outside the tokenizer's pitch range, which are not used.
        seconds: length after repairs.
        kept: what the tokenizer keeps and loses; all counts are 0 without one.
    """

    tracks: int = 0
    notes: int = 0
    drums: int = 0
    outside: int = 0
    seconds: float = 0.0
    kept: Kept = field(default_factory=Kept)

    def counts(self) -> dict[str, Any]:
        """Return the counts by name."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(SongCounts)}


@dataclass(frozen=True)
class HealthRow(SongCounts):
    """Row of one tune, or of one file without tunes.

    Attributes:
        file: path inside the folder; undecodable bytes are escaped.
        tune: number inside the file from 1 on, 0 where the file is one piece.
        status: kept unchanged, kept after repairs, or skipped.
        why: repairs and notes left out, or the reason for skipping; may be empty.
    """

    file: str
    tune: int
    status: Status
    why: str = ""

    @property
    def name(self) -> str:
        """Name of the song: its file, with `#n` for the n-th tune."""
        return f"{self.file}#{self.tune}" if self.tune else self.file

    def as_json(self) -> dict[str, Any]:
        """Return the row for a JSON file."""
        row = {"file": self.file, "tune": self.tune, "status": self.status, "why": self.why}
        return {**row, **self.counts(), "kept": self.kept.as_json()}


def row_from_json(entry: dict[str, Any]) -> HealthRow:
    """Build a row from what `HealthRow.as_json` returned, of this version or an earlier one.

    Raises:
        TypeError: it has fields that a row does not have.
    """
    return HealthRow(**{**entry, "kept": kept_from_json(entry.get("kept", {}))})


def health_table(rows: Sequence[HealthRow]) -> list[tuple[str, ...]]:
    """Format the cells under SONG_COLUMNS; skipped rows first, then repaired, then kept, each in file order."""
    rank = {"skipped": 0, "repaired": 1, "kept": 2}
    ordered = sorted(rows, key=lambda row: rank[row.status])
    return [
        (r.file, str(r.tune or ""), r.status, str(r.tracks), str(r.notes), f"{r.seconds:.1f}", r.why) for r in ordered
    ]


def health_json(rows: Sequence[HealthRow]) -> dict[str, Any]:
    """Build the table for `--json`: counts by status, totals, and every row."""
    counts = Counter(row.status for row in rows)
    return {
        "kept": counts["kept"],
        "repaired": counts["repaired"],
        "skipped": counts["skipped"],
        "notes": sum(row.notes for row in rows),
        "seconds": round(sum(row.seconds for row in rows), 3),
        "rows": [row.as_json() for row in rows],
    }


def health_line(rows: Sequence[HealthRow]) -> str:
    """Format counts by status, notes and minutes as one line."""
    table = health_json(rows)
    minutes = table["seconds"] / 60
    return (
        f"{table['kept']} kept, {table['repaired']} repaired, {table['skipped']} skipped; "
        f"{table['notes']:,} notes, {minutes:.1f} minutes"
    )


def skip_reasons(rows: Sequence[HealthRow]) -> list[str]:
    """List `file: reason` of skipped rows, in file order."""
    return [f"{r.name}: {r.why}" for r in rows if r.status == "skipped"]


def describe_skipped(rows: Sequence[HealthRow], most: int = 5) -> list[str]:
    """Name the skipped files in a few bounded lines, one for each reason; copies by augment are counted only.

    Args:
        rows: rows of any status.
        most: largest number of reasons, and of files of one reason, that are named.
    """
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if row.status == "skipped":
            by_reason.setdefault(row.why, []).append(row.name)
    copies = by_reason.pop(SAME_AS_A_COPY, [])
    named = list(by_reason.items())[:most]
    lines = [f"{len(copies)} copies by augment are left out: {SAME_AS_A_COPY}"] if copies else []
    lines += [f"skipped {list_names(names, most)}: {why[:_LONGEST_TEXT]}" for why, names in named]
    rest = sum(len(names) for names in by_reason.values()) - sum(len(names) for _, names in named)
    return [*lines, f"skipped {rest} more, for other reasons; doctor lists them all"] if rest else lines
