"""Checks of what was written, and its withdrawal where one fails."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.adapters.lora_math import Part, update_difference
from musiclora.convert.files.atomic import new_parents_of
from musiclora.convert.files.fingerprint import RECORD, recorded_source
from musiclora.convert.files.weight_files import read_json
from musiclora.errors import ConfigError, ConvertError

# Files that belong to a model and travel with it; weights and records are written anew.
_BESIDE = (
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
_MAX_BESIDE = 100_000_000  # bytes
_BLOCK = 1 << 18  # values
UPDATE_TOLERANCE = 1e-6  # relative: a value rounded once to float32, with room


@dataclass(frozen=True)
class Converted:
    """What a job wrote.

    Attributes:
        path: the new folder.
        kind: what it is, such as `mlx` or `peft`.
        update_difference: largest difference between the updates before and after, relative; None for plain weights.
        logit_difference: largest absolute difference of logits on one batch; None where no backend or model is at hand.
        largest_logit: what that is to be compared with.
        velocity_difference, largest_velocity: the same for the audio family's model, whose output is a velocity.
        backend: what computed the logits, "" where nothing did.
        notes: what the user should know.
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


def same_update(before: Sequence[Part], after: Sequence[Part]) -> float:
    """Relative difference between what adapters add to the weights before and after.

    Raises:
        ConvertError: it is more than rounding.
    """
    difference = update_difference(before, after)
    if not difference <= UPDATE_TOLERANCE:
        raise ConvertError(
            f"the written update differs from the original by {difference:.3g} (relative); it was withdrawn"
        )
    return difference


def largest_change(first: np.ndarray, second: np.ndarray) -> float:
    """Largest absolute difference of two arrays of one shape, in float32."""
    flat, other = (np.ascontiguousarray(array).reshape(-1) for array in (first, second))
    largest = 0.0
    for start in range(0, flat.size, _BLOCK):  # the float32 copies stay in the processor's cache
        change = flat[start : start + _BLOCK].astype(np.float32)
        change -= other[start : start + _BLOCK]
        largest = max(largest, float(np.abs(change, out=change).max()))
    return largest


def companion_files(folder: Path) -> dict[str, bytes]:
    """Tokenizer, card and licence files of a folder, to be written beside what is made from it."""
    paths = [folder / name for name in _BESIDE]
    return {path.name: path.read_bytes() for path in paths if path.is_file() and path.stat().st_size <= _MAX_BESIDE}


@contextmanager
def withdrawn_on_failure(destination: Path) -> Iterator[None]:
    """Remove what was written if a check fails; refuse a destination that exists, so that nothing older is lost."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(f"{destination} exists already; remove it or choose another name")
    with new_parents_of(destination):
        try:
            yield
        except BaseException:
            shutil.rmtree(destination, ignore_errors=True)
            with contextlib.suppress(OSError):
                destination.unlink(missing_ok=True)
            raise


def record_with_source(folder: Path, fingerprint: Mapping[str, str] | None) -> dict[str, Any]:
    """The record of a folder's copy: of a chain of conversions the first source counts, so that its adapters fit.

    Args:
        folder: the source.
        fingerprint: the source's; None where its copy has the same.
    """
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    first = recorded_source(record, fingerprint["weights"] if fingerprint else None)
    if not first and fingerprint:
        first = {key: value for key, value in fingerprint.items() if not key.startswith("source_")}
    stated = {"source_fingerprint"} if fingerprint is None else {"source_fingerprint", "fingerprint"}
    rest = {key: value for key, value in record.items() if key not in stated}
    return rest | ({"source_fingerprint": first} if first else {})


def describe_dropped(dropped: Mapping[str, str]) -> list[str]:
    """Notes on names that were dropped, by their reason, counted where there are many of one kind."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in dropped.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"left out {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {reason}"
        for reason, names in by_reason.items()
    ]
