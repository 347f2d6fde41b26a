"""What the page tells of a folder of songs: health, and which base can hold them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.audio.files.health import RECORDING_COLUMNS
from musiclora.errors import ConfigError
from musiclora.formats import MUSIC_SUFFIXES, RECORDING_SUFFIXES
from musiclora.symbolic.reading.health import SONG_COLUMNS
from musiclora.ui.commands import CommandState, run_command
from musiclora.ui.workspace import Workspace

BASES = ("bundled", "bundled-band")  # of notes; their tokens keep different things
RECORDING_BASE = "bundled-audio"
_SHOWN_COLUMNS = [i for i, name in enumerate(SONG_COLUMNS) if name != "tune"]
_SONG_HEADINGS = [SONG_COLUMNS[i] for i in _SHOWN_COLUMNS]
BASE_HEADINGS = ["base", "can hold these songs?", "why"]
_MOSTLY = 0.95  # share of the notes that a base must keep


@dataclass(frozen=True)
class FolderHealth:
    """Tables of one folder.

    Attributes:
        headings: of the health table.
        rows: a row for each song or recording.
        lines: remarks: counts, and what the bases' tokens keep and lose.
        bases: a row for each base: its name, `yes` or `in part`, the reason.
        best: base to begin with; empty where none fits.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    lines: Sequence[str]
    bases: Sequence[Sequence[str]] = ()
    best: str = ""


def examine_folder(workspace: Workspace, label: str) -> Iterator[CommandState | FolderHealth]:
    """Read a folder by `musiclora doctor` for each base; yield its progress, and the tables at the end.

    Raises:
        ConfigError: the folder is not in the workspace, or cannot be read.
    """
    folder = workspace.label(workspace.inside(label))
    reports: dict[str, Mapping[str, Any]] = {}
    for base in BASES:
        state = CommandState()
        for state in run_command(["doctor", folder, f"--model={base}"], workspace.root):
            if state.code is None:
                yield state
        if state.failed:
            raise ConfigError(state.line)
        reports[base] = state.output
        if "data" not in state.output:
            break
    yield describe_folder(reports)


def describe_folder(reports: Mapping[str, Mapping[str, Any]]) -> FolderHealth:
    """Build the tables from the reports of `musiclora doctor --json`, by base."""
    first = reports[BASES[0]]
    if "data" in first:
        return _describe_songs({base: report["data"] for base, report in reports.items()}, first.get("recordings"))
    if "recordings" in first:
        found = first["recordings"]
        why = "recordings are learnt as sound"
        bases = [[RECORDING_BASE, "yes", why], *([base, "no", f"{why}; this one knows notes only"] for base in BASES)]
        return FolderHealth(RECORDING_COLUMNS, found["table"], [found["line"]], bases, RECORDING_BASE)
    for kind in ("latents", "folder"):
        if kind in first:
            return FolderHealth(_SONG_HEADINGS, [], [first[kind]["line"]])
    raise ConfigError("the folder holds neither songs nor recordings")


def _describe_songs(data: Mapping[str, Any], recordings: Mapping[str, Any] | None) -> FolderHealth:
    lines = [note for report in data.values() for note in report.get("notes", ())]
    if recordings:
        lines.append("the folder holds recordings too; put songs and recordings into folders of their own")
    shares = {base: _share(report) for base, report in data.items()}
    bases = [[base, *_judge_base(report)] for base, report in data.items()]
    best = max(shares, key=lambda base: (round(shares[base], 2), base == BASES[0]))
    table = [[row[i] for i in _SHOWN_COLUMNS] for row in data[best]["table"]]
    lines.insert(0, str(data[best]["line"]))
    return FolderHealth(_SONG_HEADINGS, table, lines, bases, best if shares[best] else "")


def _judge_base(report: Mapping[str, Any]) -> tuple[str, str]:
    """Say whether the tokens of a base keep the songs, and the reason."""
    kept = report.get("kept_by_tokens") or {}
    if not kept.get("notes"):
        return "unknown", "no note could be counted"
    share = kept["kept"] / kept["notes"]
    lost = [
        f"{kept[name]:,} {words}"
        for name, words in (("drums", "drum notes"), ("outside", "notes out of range"), ("foreign", "other notes"))
        if kept.get(name)
    ]
    instruments = f"{kept['instruments_kept']:,} of {kept['instruments']:,} instruments stay"
    if kept["instruments"] and not kept["instruments_kept"]:
        instruments = "all instruments become one piano"
    reason = f"{share:.0%} of the notes are kept; {instruments}"
    reason += f"; lost: {', '.join(lost)}" if lost else ""
    holds = share >= _MOSTLY and not kept.get("drums") and (kept["instruments_kept"] or kept["tracks"] <= kept["songs"])
    return ("yes" if holds else "in part"), reason


def _share(report: Mapping[str, Any]) -> float:
    kept = report.get("kept_by_tokens") or {}
    if not kept.get("notes"):
        return 0.0
    is_band = kept.get("tracks", 0) > kept.get("songs", 0)
    instruments = kept["instruments_kept"] / kept["instruments"] if is_band else 1.0
    return float(kept["kept"] / kept["notes"]) * (0.5 + 0.5 * instruments)


def list_songs(workspace: Workspace, label: str) -> list[str]:
    """List the songs and recordings of a folder, by label."""
    folder = workspace.inside(label)
    known = {*MUSIC_SUFFIXES, *RECORDING_SUFFIXES}
    files = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    return [workspace.label(path) for path in files if path.suffix.lower() in known and path.is_file()][:2000]


def add_songs(workspace: Workspace, files: Sequence[str], name: str | None) -> tuple[str, str]:
    """Copy dropped files into a folder of the workspace.

    Args:
        workspace: the page's folder.
        files: paths of the files that the browser sent.
        name: name of the new folder, or of one that the page made earlier.

    Returns:
        Label of the folder, and a line that tells what was copied and what was not.

    Raises:
        ConfigError: no name, no music among the files, or nothing is new.
    """
    folder = workspace.new_folder(workspace.songs, name, "folder")
    known = {*MUSIC_SUFFIXES, *RECORDING_SUFFIXES}
    music = [Path(file) for file in files or () if Path(file).suffix.lower() in known]
    if not music:
        raise ConfigError("drop a folder or files of MIDI, ABC or recordings first")
    folder.mkdir(parents=True, exist_ok=True)
    copied = there = 0
    for path in music:
        target = folder / path.name
        if target.exists():
            there += 1
            continue
        partial = target.with_name(f".{target.name}.part")
        shutil.copyfile(path, partial)
        partial.replace(target)
        copied += 1
    others = len(files) - len(music)
    line = f"{copied} files added to {workspace.label(folder)}"
    line += f"; {there} are there already and stay as they are" if there else ""
    line += f"; {others} are no music and were left out" if others else ""
    return workspace.label(folder), line
