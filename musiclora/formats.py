"""Suffixes of music and sound files, names of generated files, and manifests of cut recordings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from musiclora.convert.errors import ConvertError, DataError
from musiclora.convert.files.json_file import NUMBER, TEXT, list_of, object_with, read_json

BASE_MARK = "-base"  # `generate --compare` adds it to the names of files by the base alone

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi")
ABC_SUFFIXES = (".abc",)
SCORE_SUFFIXES = (".musicxml", ".mxl")  # MusicXML; .xml is the ending of anything
MUSIC_SUFFIXES = MIDI_SUFFIXES + ABC_SUFFIXES + SCORE_SUFFIXES
# Scores in formats that are not read; such files are named, with what to do.
FOREIGN_SCORES = {
    ".mscz": "a MuseScore file",
    ".mscx": "a MuseScore file",
    ".mei": "MEI",
    ".krn": "Humdrum",
    ".ly": "LilyPond",
    ".sib": "a Sibelius file",
    ".musx": "a Finale file",
    ".gp": "Guitar Pro",
    ".gp3": "Guitar Pro",
    ".gp4": "Guitar Pro",
    ".gp5": "Guitar Pro",
    ".gpx": "Guitar Pro",
}


def foreign_score(path: Path) -> str:
    """Return the reason why a score of another format is not read, with what to do; empty for other files."""
    kind = FOREIGN_SCORES.get(path.suffix.lower())
    return f"{kind}, which is not read: export it as MIDI (MuseScore and most editors can)" if kind else ""


# Endings of recordings that every command reads; docs/audio.md lists the formats.
RECORDING_SUFFIXES = {
    ".aif",
    ".aifc",
    ".aiff",
    ".au",
    ".caf",
    ".flac",
    ".mp2",
    ".mp3",
    ".oga",
    ".ogg",
    ".opus",
    ".rf64",
    ".w64",
    ".wav",
    ".wave",
}
# Endings of sound and film that libsndfile does not read; such files are reported.
FOREIGN_SUFFIXES = {
    ".3gp",
    ".aac",
    ".ac3",
    ".alac",
    ".amr",
    ".ape",
    ".avi",
    ".dff",
    ".dsf",
    ".m4a",
    ".m4b",
    ".mka",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpc",
    ".tta",
    ".webm",
    ".wma",
    ".wmv",
    ".wv",
}
MANIFEST = "manifest.json"  # `cut` writes it beside the segments
_SEGMENT = {"file": TEXT, "source": TEXT, "start": NUMBER, "end": NUMBER}
_MANIFEST_KIND = object_with({"segments": list_of(object_with(_SEGMENT, _SEGMENT))})
FOREIGN_ADVICE = "is in a format that is not read; convert it to WAV or FLAC (such as ffmpeg -i FILE new.wav)"


def output_paths(output: Path, count: int, mark: str = "") -> list[Path]:
    """Name the output files: `F.mid`, or `F-001.mid` and so on for several; the mark stands before the suffix."""
    suffix = output.suffix or ".mid"
    numbers = [""] if count == 1 else [f"-{i:03d}" for i in range(1, count + 1)]
    return [output.with_name(f"{output.stem}{number}{mark}{suffix}") for number in numbers]


def expand_home(name: str | Path) -> Path:
    """Replace a leading `~` or `~user` by the home folder; the name of no user stays as it is."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 - Path.expanduser raises RuntimeError for it


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Read `source`, `start` and `end` of the segments that `cut` wrote below a folder, by path inside it.

    Raises:
        DataError: a damaged manifest, without which segments of one recording cannot be kept together.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob(MANIFEST)):
        below = path.parent.relative_to(folder)
        try:
            segments = read_json(path, _MANIFEST_KIND).get("segments", [])  # none in another tool's manifest
        except ConvertError as error:
            raise DataError(f"{path}: is no manifest of musiclora cut ({error}); remove it or cut again") from error
        for item in segments:
            source = (below / item["source"]).as_posix()
            span = {"start": float(item["start"]), "end": float(item["end"])}
            found[(below / item["file"]).as_posix()] = {"source": source, **span}
    return found
