"""provenance.json: the song of which each file by augment is a copy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from musiclora.convert.errors import DataError

PROVENANCE_FILE = "provenance.json"


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
        entries = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {
            name: Origin(str(e["song"]), int(e["transpose"]), float(e["tempo"]), bool(e["original"]))
            for name, e in entries.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not readable as what augment writes ({error!r}); run augment again, or delete it to treat "
            "every file as a song of its own"
        ) from error


def write_provenance(folder: Path, origins: dict[str, Origin]) -> None:
    """Write provenance.json into the folder."""
    files = {
        name: {"song": o.song, "transpose": o.transpose, "tempo": o.tempo, "original": o.original}
        for name, o in sorted(origins.items())
    }
    (folder / PROVENANCE_FILE).write_text(json.dumps({"version": 1, "files": files}, indent=1), encoding="utf-8")
