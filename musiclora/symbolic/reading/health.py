"""Health table of a music folder: each file and tune kept, repaired or skipped, with the reason."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["kept", "repaired", "skipped"]
SONG_COLUMNS = ("file", "tune", "status", "tracks", "notes", "seconds", "why")


@dataclass(frozen=True)
class HealthRow:
    """Row of one tune, or of one file without tunes.

    Attributes:
        file: path inside the folder; undecodable bytes are escaped.
        tune: number inside the file from 1 on, 0 where the file is one piece.
        status: kept unchanged, kept after repairs, or skipped.
        why: repairs and notes left out, or the reason for skipping; may be empty.
        tracks: number of tracks with notes.
        notes: number of notes that are used.
        drums: number of drum notes, which are not used.
        outside: number of notes outside the tokenizer's pitch range, which are not used.
        seconds: length after repairs.
    """

    file: str
    tune: int
    status: Status
    why: str = ""
    tracks: int = 0
    notes: int = 0
    drums: int = 0
    outside: int = 0
    seconds: float = 0.0


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
        "rows": [dataclasses.asdict(row) for row in rows],
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
    return [f"{r.file}{f'#{r.tune}' if r.tune else ''}: {r.why}" for r in rows if r.status == "skipped"]
