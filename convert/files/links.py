"""Files that travel with a model, unless they are links to something outside its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from musiclora.convert.errors import ConvertError


def refuse_foreign_link(path: Path, folder: Path) -> None:
    """Refuse a file that is a link out of its folder: what it points to must not be copied into an output.

    The Hub's cache keeps the files of a snapshot as links to its `blobs`; these belong to the folder.

    Raises:
        ConvertError: the file, or a folder above it, is a link to another place.
    """
    home = folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    found = path.resolve()
    if not any(found.is_relative_to(place) for place in allowed):
        raise ConvertError(f"{path}: is a link to a file outside its folder; put a copy there, or remove it")


def copy_folder(source: Path, destination: Path, home: Path) -> None:
    """Copy a part of a model folder, such as its codec.

    Args:
        source: the part.
        destination: new folder.
        home: the model folder; links out of it are refused.

    Raises:
        ConvertError: a link to another place.
    """
    for path in [source, *sorted(source.rglob("*"))]:
        refuse_foreign_link(path, home)
    shutil.copytree(source, destination)
