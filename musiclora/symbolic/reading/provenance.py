"""provenance.json: the song of which each file by augment is a copy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from musiclora.convert.errors import ConvertError, DataError
from musiclora.convert.files.json_file import BOOLEAN, INTEGER, NUMBER, TEXT, map_of, object_with, read_json

PROVENANCE_FILE = "provenance.json"
_ENTRY = {"song": TEXT, "transpose": INTEGER, "tempo": NUMBER, "original": BOOLEAN}
_KIND = object_with({"files": map_of(object_with(_ENTRY, _ENTRY))}, ("files",))


@dataclass(frozen=True)
class Origin:
    """Origin of one file.

    Attributes:
        song: name of the song, the same for all its copies.
        transpose: semitones.
        tempo: tempo factor.
        original: True for the unchanged copy.
    """

    song: str
    transpose: int = 0
    tempo: float = 1.0
    original: bool = True


def read_provenance(folder: Path) -> dict[str, Origin]:
    """Read the origins by file path relative to the folder; empty where there is no provenance.json.

    Raises:
        DataError: the file is damaged. Ignoring it would train on copies of held-out songs.
    """
    path = folder / PROVENANCE_FILE
    if not path.is_file():
        return {}
    try:
        entries = read_json(path, _KIND)["files"]
        return {
            name: Origin(e["song"], e["transpose"], float(e["tempo"]), e["original"]) for name, e in entries.items()
        }
    except ConvertError as error:
        raise DataError(
            f"{path}: not readable as what augment writes ({error}); run augment again, or delete it to treat "
            "every file as a song of its own"
        ) from error


def write_provenance(folder: Path, origins: dict[str, Origin]) -> None:
    """Write provenance.json into the folder."""
    files = {
        name: {"song": o.song, "transpose": o.transpose, "tempo": o.tempo, "original": o.original}
        for name, o in sorted(origins.items())
    }
    (folder / PROVENANCE_FILE).write_text(json.dumps({"version": 1, "files": files}, indent=1), encoding="utf-8")
