"""Trained styles beside adapters: DiffRhythm's style vector [512], ACE-Step's trained condition [K, D]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from musiclora.adapters import Adapter
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.errors import ConvertError

STYLE_FILE = "style.safetensors"
STYLE, ORIGIN = "style", "origin"  # arrays of the file


def blended_style(adapters: Sequence[Adapter]) -> np.ndarray | None:
    """Add up the adapters' styles, float32 [W] or [K, D]; None where none has one. See `blended_arrays`."""
    arrays = blended_arrays(adapters)
    return None if arrays is None else arrays[STYLE]


def blended_arrays(adapters: Sequence[Adapter]) -> dict[str, np.ndarray] | None:
    """Add up what the adapters' styles differ from where they began, each times its strength.

    A style vector begins at zero, a trained condition at the null condition, which its file holds: at strength 0 the
    model is without a condition, not with one of zeros.

    Returns:
        `style`, float32 [W] or [K, D], and `origin` where the files have one; None where no adapter has a style.

    Raises:
        ConvertError: a style file that holds something else, or styles of different shapes.
    """
    found = [(adapter, _read_arrays(adapter.path / STYLE_FILE)) for adapter in adapters]
    known = [(adapter, arrays) for adapter, arrays in found if arrays is not None]
    if not known:
        return None
    first, origin = known[0][1], known[0][1].get(ORIGIN, np.float32(0))
    total = np.zeros_like(first[STYLE]) + origin
    for adapter, arrays in known:
        style = arrays[STYLE]
        if style.shape != total.shape:
            raise ConvertError(
                f"{adapter.path}: its style has shape {list(style.shape)}, that of {known[0][0].path} "
                f"{list(total.shape)}: they cannot be added"
            )
        total = total + np.float32(adapter.strength) * (style - origin)
    return {**first, STYLE: total}


def read_style(path: Path) -> np.ndarray | None:
    """Read an adapter's style, float32 [W] or [K, D]; None for a missing file.

    Raises:
        ConvertError: it holds something else.
    """
    arrays = _read_arrays(path)
    return None if arrays is None else arrays[STYLE]


def _read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Read a style, and what it began at where the file says so, in float32; None for a missing file."""
    if not path.is_file():
        return None
    found = {
        name: array.astype(np.float32) for name, array in read_safetensors(path).items() if name in (STYLE, ORIGIN)
    }
    style, origin = found.get(STYLE), found.get(ORIGIN)
    if style is None or style.ndim not in (1, 2) or not style.size or not np.isfinite(style).all():
        raise ConvertError(f"{path}: expected one array `style` of finite values, a vector or rows of a condition")
    if origin is not None and (origin.shape != style.shape[-1:] or not np.isfinite(origin).all()):
        raise ConvertError(f"{path}: `origin` has shape {list(origin.shape)}, expected {list(style.shape[-1:])}")
    return found


def carry_style(source: Path, destination: Path) -> list[str]:
    """Copy an adapter's style into the folder converted from it.

    Returns:
        A note where the destination is a file, which holds no style.
    """
    arrays = _read_arrays(source / STYLE_FILE)
    if arrays is None:
        return []
    if not destination.is_dir():
        return [f"the style vector does not fit into this file; it stays in {source / STYLE_FILE}"]
    write_safetensors(destination / STYLE_FILE, arrays, {"format": "pt"})
    return []
