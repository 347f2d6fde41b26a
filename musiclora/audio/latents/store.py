"""Latents folders: an index and one file for each recording, by its checksum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.files.atomic import write_json
from musiclora.convert.files.json_file import read_json
from musiclora.convert.files.safetensors_file import read_safetensors, safetensors_header, write_safetensors
from musiclora.errors import ConvertError, DataError

INDEX = "index.json"
STYLE_WIDTH = 512


def is_latents(folder: Path) -> bool:
    """Whether a folder holds latents and not recordings."""
    return (folder / INDEX).is_file()


def write_index(folder: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Write the index; readers see the old one or the new one.

    Raises:
        OutputError: the system refuses to write.
    """
    write_json(folder / INDEX, {"format": 1, "items": list(items)})


def known_items(folder: Path, fingerprint: str, posterior: str) -> dict[str, dict[str, Any]]:
    """What a folder holds of this codec's latents of this kind, by checksum; nothing where its index is damaged."""
    try:
        items = read_json(folder / INDEX)["items"]
        return {
            item["sha256"]: {"seconds": item["end"] - item.get("start", 0.0), "notes": [], **item}
            for item in items
            if item["codec"] == fingerprint
            and item.get("posterior", "mean") == posterior
            and _is(folder / f"{item['sha256']}.safetensors", fingerprint, posterior)
        }
    except (ConvertError, KeyError, TypeError, AttributeError):
        return {}


def _is(path: Path, fingerprint: str, posterior: str) -> bool:
    """Whether a file is whole and by its own account what the index says: that may be older than the file."""
    try:
        layout, metadata = safetensors_header(path)
    except ConvertError:
        return False
    said = (metadata.get("codec", fingerprint), metadata.get("posterior", posterior))
    return "latents" in layout and said == (fingerprint, posterior)


def put_latents(path: Path, arrays: Mapping[str, np.ndarray], **said: str) -> None:
    """Write the arrays of one recording; the file appears whole or not at all.

    Args:
        path: the file.
        arrays: latents, style, text.
        said: codec, posterior and style, so that a later start knows whether they are the same.

    Raises:
        OutputError: the system refuses to write.
    """
    temporary = path.with_name(f".{path.stem}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        write_safetensors(temporary, arrays, {"format": "pt", **{k: v for k, v in said.items() if v}})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def put_style(path: Path, name: str, make: Callable[[], np.ndarray] | None) -> None:
    """Keep a style beside one recording's latents, in place of another; it is made where it is not there yet."""
    layout, metadata = safetensors_header(path)
    if ("style" in layout) == (make is not None) and metadata.get("style", "") == (name if make else ""):
        return
    arrays = read_safetensors(path)
    arrays.pop("style", None)
    if make is not None:
        arrays["style"] = np.asarray(make(), np.float32)
    kept = {key: metadata.get(key, "") for key in ("codec", "posterior")}
    put_latents(path, arrays, **kept, style=name if make else "")


def read_latents(folder: Path) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Index entries of a latents folder with their arrays.

    Raises:
        DataError: the index or an array is missing, damaged, mis-shaped or not finite.
    """
    index = read_json(folder / INDEX)
    items = index.get("items")
    if not isinstance(items, list) or not items:
        raise DataError(f"{folder / INDEX}: lists no latents; make it anew with musiclora preprocess")
    found = []
    for item in items:
        if not isinstance(item, dict) or not {"source", "sha256"} <= set(item):
            raise DataError(
                f"{folder / INDEX}: an entry lacks source or sha256; make it anew with musiclora preprocess"
            )
        arrays = read_safetensors(folder / f"{Path(str(item['sha256'])).name}.safetensors")
        _check(arrays, f"{folder.name}/{item['sha256'][:12]}… ({item['source']})")
        found.append((item, arrays))
    return found


def _check(arrays: dict[str, np.ndarray], where: str) -> None:
    latents, style, text = (arrays.get(name) for name in ("latents", "style", "text"))
    if latents is None or latents.ndim != 2 or not np.isfinite(latents).all():
        raise DataError(f"{where}: expected finite latents [T, C]; encode the recording anew")
    if style is not None and (style.shape != (STYLE_WIDTH,) or not np.isfinite(style).all()):
        raise DataError(f"{where}: its style has shape {list(style.shape)}, expected {STYLE_WIDTH} finite values")
    if text is not None and text.shape != (len(latents),):
        raise DataError(f"{where}: its text has {len(text)} values for {len(latents)} frames")
