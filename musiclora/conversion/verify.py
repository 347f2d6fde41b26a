"""Results of conversion jobs, checks of written files, and the files that travel with a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.adapters.lora_math import Part, update_difference
from musiclora.convert.files.fingerprint import TOKENIZER_FILES, fingerprint_file, read_record, recorded_source
from musiclora.convert.files.links import refuse_foreign_link
from musiclora.convert.files.outputs import check_apart
from musiclora.errors import ConfigError, ConvertError

# Files that travel with a model; its weights and record are written again.
_COMPANIONS = (
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.conf",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
TOKENIZER_PARTS = (
    *TOKENIZER_FILES,
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
)
_MAX_COMPANION_BYTES = 100_000_000
_BLOCK_VALUES = 1 << 18  # fits the processor's cache
UPDATE_TOLERANCE = 1e-6  # relative: a value rounded once to float32, with room


@dataclass(frozen=True)
class Converted:
    """Result of a conversion job.

    Attributes:
        path: the new folder or file.
        kind: its layout or format, such as `mlx` or `peft`.
        update_difference: largest difference between the updates before and after, relative; None for plain weights.
        logit_difference: largest absolute difference of logits on one batch; None where no backend or model is at hand.
        largest_logit: largest absolute logit of that batch.
        backend: backend that computed the outputs, "" where none did.
        notes: remarks for the user.
        velocity_difference, largest_velocity: as for logits, of an audio model, whose output is a velocity.
    """

    path: Path
    kind: str
    update_difference: float | None = None
    logit_difference: float | None = None
    largest_logit: float | None = None
    backend: str = ""
    notes: tuple[str, ...] = field(default=())
    velocity_difference: float | None = None
    largest_velocity: float | None = None


def check_update(before: Sequence[Part], after: Sequence[Part]) -> float:
    """Compute the relative difference between the updates of adapters before and after.

    Raises:
        ConvertError: a difference beyond rounding.
    """
    difference = update_difference(before, after)
    if not difference <= UPDATE_TOLERANCE:
        raise ConvertError(
            f"the written update differs from the original by {difference:.3g} (relative); it was withdrawn"
        )
    return difference


def largest_change(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the largest absolute difference of two arrays of one shape, in float32, or in float64 where one is."""
    flat, other = (np.ascontiguousarray(array).reshape(-1) for array in (first, second))
    exact = np.float64 if np.float64 in (flat.dtype, other.dtype) else np.float32
    largest = 0.0
    for start in range(0, flat.size, _BLOCK_VALUES):  # the float32 copies stay in the processor's cache
        change = flat[start : start + _BLOCK_VALUES].astype(exact)
        np.subtract(change, other[start : start + _BLOCK_VALUES], out=change)
        largest = max(largest, float(np.abs(change, out=change).max()))
    return largest


def zeros_made(first: np.ndarray, second: np.ndarray) -> int:
    """Count the values that rounding turned into zero: those too small for float16, for instance."""
    return int(np.count_nonzero(_magnitude_bits(first)) - np.count_nonzero(_magnitude_bits(second)))


def _magnitude_bits(array: np.ndarray) -> np.ndarray:
    """Return what is zero exactly where the array is; counting halves as integers is many times faster."""
    return np.ascontiguousarray(array).view(np.uint16) & np.uint16(0x7FFF) if array.itemsize == 2 else array


def describe_zeros(count: int, dtype: str) -> list[str]:
    """Format a note on values that became zero; none where there are none."""
    if not count:
        return []
    values = "1 value is" if count == 1 else f"{count:,} values are"
    return [f"{values} too small for {dtype} and became zero; --dtype bfloat16 or float32 keeps such values"]


def stored_dtype(wanted: str | None, found: Iterable[np.dtype[Any]], to: str) -> str | None:
    """Choose one dtype for a copy; None keeps each tensor's. MLX has no float64 on a GPU, and mlx-lm refuses it.

    Args:
        wanted: what the user asked for.
        found: dtypes of the source.
        to: layout of the copy.
    """
    return wanted or ("float32" if to == "mlx" and np.dtype(np.float64) in set(found) else None)


def companion_files(folder: Path) -> dict[str, bytes]:
    """Read the tokenizer, card and licence files of a folder.

    Raises:
        ConvertError: one of them is a link to a file outside the folder.
    """
    files = {}
    for path in (folder / name for name in _COMPANIONS):
        if path.is_file() and path.stat().st_size <= _MAX_COMPANION_BYTES:
            refuse_foreign_link(path, folder)
            files[path.name] = path.read_bytes()
    return files


def tokenizer_fingerprint(files: Mapping[str, bytes]) -> str:
    """Hash the tokenizer among files by name; "" without one."""
    return next((fingerprint_file(files[name]) for name in TOKENIZER_FILES if name in files), "")


def check_destination(destination: Path, inputs: Mapping[str, Path | None], option: str = "DESTINATION") -> None:
    """Check a destination before the work.

    Args:
        destination: new folder or file.
        inputs: folders and files that are read, by option or argument.
        option: option or argument that names the destination.

    Raises:
        ConfigError: a file, a link or a filled folder is there, or it lies inside an input or around it.
    """
    if os.path.lexists(destination) and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(f"{destination} exists already; remove it or choose another name")
    check_apart(destination, inputs, option)


def record_with_source(folder: Path, fingerprint: Mapping[str, str] | None) -> dict[str, Any]:
    """Build the record of a folder's copy, which names the first source of a chain of conversions.

    Adapters of that source then fit the copy.

    Args:
        folder: folder of the source.
        fingerprint: fingerprint of the source; None where the copy has the same.
    """
    record = read_record(folder)
    first = recorded_source(record, fingerprint["weights"] if fingerprint else None)
    if not first and fingerprint:
        first = {key: value for key, value in fingerprint.items() if not key.startswith("source_")}
    stated = {"source_fingerprint"} if fingerprint is None else {"source_fingerprint", "fingerprint"}
    rest = {key: value for key, value in record.items() if key not in stated}
    return rest | ({"source_fingerprint": first} if first else {})


def describe_dropped(dropped: Mapping[str, str]) -> list[str]:
    """Format notes on dropped names, grouped by reason and counted."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in dropped.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"left out {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {reason}"
        for reason, names in by_reason.items()
    ]
