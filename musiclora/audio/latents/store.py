"""Latents folder: an index, and one safetensors file for each recording, named by its checksum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.audio.latents.levels import LARGE_LATENTS, latents_size
from musiclora.backends.base import Codec
from musiclora.convert.files.atomic import write_json
from musiclora.convert.files.folder_lock import is_locked
from musiclora.convert.files.json_file import BOOLEAN, INTEGER, NUMBER, TEXT, list_of, object_with, read_json
from musiclora.convert.files.safetensors_file import read_safetensors, safetensors_header, write_safetensors
from musiclora.convert.files.temporary import remove_tree
from musiclora.errors import ConfigError, ConvertError, DataError

INDEX = "index.json"
_ITEM = object_with(
    {
        "source": TEXT,
        "sha256": TEXT,
        "start": NUMBER,
        "end": NUMBER,
        "seconds": NUMBER,
        "codec": TEXT,
        "posterior": TEXT,
        "notes": list_of(TEXT),
        "frames": INTEGER,
        "gain_db": NUMBER,
    },
    ("source", "sha256"),
)
_INDEX_KIND = object_with({"complete": BOOLEAN, "items": list_of(_ITEM)}, ("items",))


def is_latents(folder: Path) -> bool:
    """Return True for a folder that holds latents, not recordings."""
    return (folder / INDEX).is_file()


def refuse_foreign_files(folder: Path) -> None:
    """Check that recordings can be encoded into a folder: nothing in it is another program's.

    Raises:
        ConfigError: it is a file, or holds something else than latents.
    """
    found = list(folder.iterdir()) if folder.is_dir() else []
    foreign = [p for p in found if p.suffix != ".safetensors" and p.name != INDEX and not p.name.startswith(".")]
    if folder.is_file() or foreign or not _may_be_index(folder / INDEX):
        raise ConfigError(f"--output-dir {folder}: holds something else than latents; choose another")


def _may_be_index(path: Path) -> bool:
    """Return False for an index.json of another program; a damaged one may have been ours."""
    try:
        return not path.is_file() or "items" in read_json(path)
    except ConvertError:
        return True


def write_index(folder: Path, items: Sequence[Mapping[str, Any]], *, complete: bool = True) -> None:
    """Write the index atomically.

    Args:
        folder: the latents folder.
        items: an entry for each recording.
        complete: no recording is still to be encoded.

    Raises:
        OutputError: the system refuses to write.
    """
    write_json(folder / INDEX, {"format": 1, "complete": complete, "items": list(items)})


def refuse_unfinished(folder: Path) -> None:
    """Check that no process encodes recordings into a folder: some would be missing.

    Raises:
        DataError: one does.
    """
    if is_locked(folder):
        raise DataError(f"{folder}: another process is still encoding recordings into it; wait until it ends")


def interruption_notes(folder: Path) -> list[str]:
    """Tell of a latents folder whose encoding was interrupted; empty for others, and for those of earlier versions."""
    index = read_json(folder / INDEX, _INDEX_KIND)
    if index.get("complete", True):
        return []
    return [
        f"{folder}: its encoding was interrupted: it holds {len(index['items'])} recordings, and others are missing; "
        "the same musiclora preprocess again completes it"
    ]


def known_items(folder: Path, fingerprint: str, posterior: str, codec: Codec) -> dict[str, dict[str, Any]]:
    """Collect the index entries with latents of this codec and kind, by checksum; empty for a damaged index.

    Latents count only where their frames are those of the recording's length.
    """
    try:
        items = read_json(folder / INDEX, _INDEX_KIND)["items"]
        return {
            item["sha256"]: item
            for item in ({"seconds": i["end"] - i.get("start", 0.0), "notes": [], **i} for i in items)
            if item["codec"] == fingerprint
            and item.get("posterior", "mean") == posterior
            and _is_current(
                folder / f"{item['sha256']}.safetensors",
                fingerprint,
                posterior,
                [round(item["seconds"] * codec.sample_rate) // codec.hop, codec.latent_channels],
            )
            and ("gain_db" in item or not _is_too_loud(folder / f"{item['sha256']}.safetensors"))
        }
    except (ConvertError, KeyError, TypeError, AttributeError):
        return {}


def _is_current(path: Path, fingerprint: str, posterior: str, shape: Sequence[int]) -> bool:
    """Return True for a readable file that agrees with the index, which may be older than the file."""
    try:
        layout, metadata = safetensors_header(path)
    except ConvertError:
        return False
    recorded = (metadata.get("codec", fingerprint), metadata.get("posterior", posterior))
    return "latents" in layout and list(layout["latents"][1]) == list(shape) and recorded == (fingerprint, posterior)


def remove_temporary_files(folder: Path, pattern: str = ".*.tmp") -> None:
    """Remove what a killed start left; the folder's lock must be held. Part files stay: a later start resumes them."""
    for left in folder.glob(pattern):
        remove_tree(left)


def _is_too_loud(path: Path) -> bool:
    """Return True for latents of an earlier version, which did not turn recordings down, that are too large."""
    return latents_size(read_safetensors(path)["latents"]) > LARGE_LATENTS


def put_latents(path: Path, arrays: Mapping[str, np.ndarray], **facts: str) -> None:
    """Write the arrays of one recording atomically.

    Args:
        path: the file.
        arrays: `latents`, and the conditions of the recording.
        facts: codec, posterior and style, which a later start compares with its own.

    Raises:
        OutputError: the system refuses to write.
    """
    temporary = path.with_name(f".{path.stem}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        write_safetensors(temporary, arrays, {"format": "pt", **{k: v for k, v in facts.items() if v}})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def put_style(path: Path, name: str, make: Callable[[], np.ndarray] | None) -> None:
    """Store a style vector in one recording's file; it is computed only where the file has another one or none.

    Args:
        path: the file.
        name: identifies the style.
        make: computes it; None removes the style.
    """
    layout, metadata = safetensors_header(path)
    if ("style" in layout) == (make is not None) and metadata.get("style", "") == (name if make else ""):
        return
    arrays = read_safetensors(path)
    arrays.pop("style", None)
    if make is not None:
        arrays["style"] = np.asarray(make(), np.float32)
    kept = {key: metadata.get(key, "") for key in ("codec", "posterior")}
    put_latents(path, arrays, **kept, style=name if make else "")


def condition_key(path: Path) -> str:
    """Return what identifies the words that a recording's condition was computed from; empty without a condition."""
    layout, metadata = safetensors_header(path)
    return metadata.get("words", "") if "condition" in layout else ""


def put_condition(path: Path, key: str, condition: np.ndarray) -> None:
    """Store a condition [S, D] in one recording's file, in place of an earlier one.

    Args:
        path: the file.
        key: identifies the words and the encoders.
        condition: float32.
    """
    _, metadata = safetensors_header(path)
    arrays = read_safetensors(path) | {"condition": np.asarray(condition, np.float32)}
    kept = {name: metadata.get(name, "") for name in ("codec", "posterior", "style")}
    put_latents(path, arrays, **kept, words=key)


def read_index(folder: Path) -> list[dict[str, Any]]:
    """Read the entries of a latents folder's index.

    Raises:
        ConvertError: it is missing or damaged.
    """
    items: list[dict[str, Any]] = read_json(folder / INDEX, _INDEX_KIND)["items"]
    return items


def read_latents(folder: Path) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Read the index entries of a latents folder with their arrays.

    Raises:
        DataError: the index or the latents are missing, damaged, mis-shaped or not finite, or another process is still
            encoding.
    """
    refuse_unfinished(folder)
    try:
        items = read_index(folder)
    except ConvertError as error:
        raise DataError(f"{error}; make it again with musiclora preprocess") from error
    if not items:
        raise DataError(f"{folder / INDEX}: lists no latents; make it again with musiclora preprocess")
    found = []
    for item in items:
        arrays = read_safetensors(folder / f"{Path(item['sha256']).name}.safetensors")
        where = f"{folder.name}/{item['sha256'][:12]}… ({item['source']})"
        _check_latents(arrays.get("latents"), item.get("frames"), where)
        found.append((item, arrays))
    return found


def _check_latents(latents: np.ndarray | None, frames: int | None, where: str) -> None:
    if latents is None or latents.ndim != 2 or not np.isfinite(latents).all():
        raise DataError(f"{where}: expected finite latents [T, C]; encode the recording again")
    if frames is not None and len(latents) != frames:
        raise DataError(f"{where}: holds {len(latents)} frames of {frames}; encode the recording again")
