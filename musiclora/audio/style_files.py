"""Trained styles beside adapters: DiffRhythm's style vector [512], ACE-Step's trained condition [K, D]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from musiclora.adapters import Adapter
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.errors import ConvertError

STYLE_FILE = "style.safetensors"


def blended_style(adapters: Sequence[Adapter]) -> np.ndarray | None:
    """Sum the adapters' styles, each times its strength, float32 [W] or [K, D]; None where none has one.

    Raises:
        ConvertError: a style file that holds something else, or styles of different shapes.
    """
    styles = [(adapter, read_style(adapter.path / STYLE_FILE)) for adapter in adapters]
    known = [(adapter, style) for adapter, style in styles if style is not None]
    if not known:
        return None
    total = np.zeros_like(known[0][1])
    for adapter, style in known:
        if style.shape != total.shape:
            raise ConvertError(
                f"{adapter.path}: its style has shape {list(style.shape)}, that of {known[0][0].path} "
                f"{list(total.shape)}: they cannot be added"
            )
        total = total + np.float32(adapter.strength) * style
    return total


def read_style(path: Path) -> np.ndarray | None:
    """Read an adapter's style, float32 [W] or [K, D]; None for a missing file.

    Raises:
        ConvertError: it holds something else.
    """
    if not path.is_file():
        return None
    style = read_safetensors(path).get("style")
    if style is None or style.ndim not in (1, 2) or not style.size or not np.isfinite(style.astype(np.float32)).all():
        raise ConvertError(f"{path}: expected one array `style` of finite values, a vector or rows of a condition")
    return style.astype(np.float32)


def carry_style(source: Path, destination: Path) -> list[str]:
    """Copy an adapter's style into the folder converted from it.

    Returns:
        A note where the destination is a file, which holds no style.
    """
    style = read_style(source / STYLE_FILE)
    if style is None:
        return []
    if not destination.is_dir():
        return [f"the style vector does not fit into this file; it stays in {source / STYLE_FILE}"]
    write_safetensors(destination / STYLE_FILE, {"style": style}, {"format": "pt"})
    return []
