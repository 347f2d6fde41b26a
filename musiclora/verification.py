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

from musiclora.convert.blend import Part, update_difference
from musiclora.convert.files import new_parents_of
from musiclora.convert.lora import LoraSpec
from musiclora.errors import BackendError, ConfigError, ConvertError
from musiclora.models import BaseModel

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
LOGIT_TOLERANCE = 1e-5  # times max(1, largest logit): rounding of float32 sums in another order
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


@dataclass(frozen=True)
class Logits:
    """How far two models' logits are apart on one batch; None where nothing could compute them."""

    difference: float | None = None
    largest: float | None = None
    backend: str = ""

    def refuse_above(self, tolerance: float, path: Path) -> None:
        """Raise ConvertError where they differ by more than tolerance times max(1, the largest logit)."""
        if self.difference is None or self.largest is None:
            return
        if not self.difference <= tolerance * max(1.0, self.largest):
            raise ConvertError(
                f"{path}: the logits differ by {self.difference:.3g} (largest {self.largest:.3g}) from those before; "
                "the output was withdrawn"
            )


def compare_logits(
    first: BaseModel, first_adapter: Any, second: BaseModel, second_adapter: Any, backend: str
) -> Logits:
    """Logits of two models on one batch; empty where no backend can run and none was asked for by name."""
    from musiclora.backends.registry import choose, get_backend

    try:
        name = choose(backend)
    except BackendError:
        if backend != "auto":
            raise
        return Logits()
    before = _logits(get_backend(name), first, first_adapter)
    after = _logits(get_backend(name), second, second_adapter)
    return Logits(float(np.abs(before - after).max()), float(np.abs(before).max()), name)


def _logits(backend: Any, base: BaseModel, adapter: tuple[LoraSpec, Mapping[str, np.ndarray]] | None) -> np.ndarray:
    from musiclora.backends.base import FAMILIES

    model = backend.load(FAMILIES["symbolic"], base.path)
    if adapter:
        model.inject_adapter(*adapter)
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (2, min(64, model.n_positions)), dtype=np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[:, 0] = False
    logits: np.ndarray = model.logits({"tokens": tokens, "loss_mask": mask})
    return logits


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


def beside(folder: Path) -> dict[str, bytes]:
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
