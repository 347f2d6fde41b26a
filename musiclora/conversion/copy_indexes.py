"""Copy indexes of converted and blended adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from musiclora.adapters import Adapter, recorded_songs
from musiclora.errors import MusicLoraError
from musiclora.evaluation.copies.index_file import COPY_INDEX, identify_songs, read_copy_index


def carry_copy_index(source: Path, record: Mapping[str, Any], output: Path) -> list[str]:
    """Copy an adapter's copy index into the folder made from it, whose songs are the same.

    Args:
        source: the adapter's folder, or its file.
        record: content of its musiclora.json.
        output: the new folder, or file.

    Returns:
        A note where the index is not an index of these songs, or the output is a file, which holds none.
    """
    path = source / COPY_INDEX
    if not path.is_file():
        return []
    if not output.is_dir():
        return [f"the copy index does not fit into this file; it stays in {path}"]
    try:
        read_copy_index(path, identify_songs(recorded_songs(record)))
    except MusicLoraError as error:
        return [f"left out the copy index: {error}"]
    (output / COPY_INDEX).write_bytes(path.read_bytes())
    return []


def blend_copy_indexes(adapters: Sequence[Adapter], output: Path) -> list[str]:
    """Carry the copy index of a single adapter; several cannot be joined, since their scales need the songs.

    Returns:
        A note where the blended adapter has none and one of the adapters had.
    """
    if len(adapters) == 1:
        return carry_copy_index(adapters[0].path, adapters[0].record, output)
    if not any((adapter.path / COPY_INDEX).is_file() for adapter in adapters):
        return []
    return [
        f"the blended adapter has no {COPY_INDEX}, since the scale of a common one needs the songs; to find copies, "
        "give generate and evaluate --train-dir"
    ]
