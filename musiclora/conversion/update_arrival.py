"""Loss of an update in rounding: the weights that it still changes once they are stored in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.files.fingerprint import read_record
from musiclora.convert.files.safetensors_file import Dtype, dtype_named

HALVES = ("float16", "bfloat16")
NEARLY_NOTHING = 0.01  # share of the changed weights; a trained adapter keeps nearly all
UPDATE_ROUNDED = "update_rounded"  # key of a fused model's record


@dataclass
class Rounded:
    """Effect of one dtype on an update, summed over weight tensors.

    Attributes:
        changed: weights that differ from the base's in this dtype.
        error: sum of the squared rounding errors of the fused weights.
    """

    changed: int = 0
    error: float = 0.0

    def add(self, base: np.ndarray, fused: np.ndarray, dtype: Dtype) -> None:
        """Round one weight tensor of the base and the same with the update, both float32."""
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is refused where it is written
            kept = fused.astype(dtype)
            self.changed += int(np.count_nonzero(base.astype(dtype) != kept))
            self.error += float(np.square(kept.astype(np.float32) - fused, dtype=np.float64).sum())


@dataclass
class UpdateArrival:
    """Effect of rounding on an update, accumulated while the fused weights stream by.

    Attributes:
        changed: weights that the update changes in float32.
        square: sum of the squared changes.
        stored: effect of the dtypes that are stored.
        halves: effect of each half precision.
    """

    changed: int = 0
    square: float = 0.0
    stored: Rounded = field(default_factory=Rounded)
    halves: dict[str, Rounded] = field(default_factory=lambda: {half: Rounded() for half in HALVES})

    def add(self, base: np.ndarray, fused: np.ndarray, stored: Dtype) -> None:
        """Add one weight tensor: the base's, the same with the update in float32, and the dtype that is stored."""
        exact = base.astype(np.float32)
        self.changed += int(np.count_nonzero(exact != fused))
        self.square += float(np.square(fused - exact, dtype=np.float64).sum())
        self.stored.add(exact, fused, stored)
        for half, found in self.halves.items():
            found.add(exact, fused, dtype_named(half))

    def error(self, rounded: Rounded) -> float:
        """Compute the rounding error relative to the update, both as Frobenius norms; 0 without an update."""
        return float((rounded.error / self.square) ** 0.5) if self.square else 0.0

    def notes(self, dtype: str) -> list[str]:
        """Return a warning where little or nothing of an update that is not zero arrives.

        Args:
            dtype: stored dtype of the weights; where they have several, the one that rounds most.
        """
        if not self.changed:
            return ["warning: the update changes no weight, not even in float32: the fused model is the base"]
        return describe_arrival(self.stored.changed / self.changed, self.error(self.stored), dtype)

    def record(self) -> dict[str, Any]:
        """Return the entry of a fused model's record: what each half precision makes of the update."""
        if not self.changed:
            return {}
        found = {
            half: {"changed": round(r.changed / self.changed, 6), "error": round(self.error(r), 6)}
            for half, r in self.halves.items()
        }
        return {UPDATE_ROUNDED: found}


def describe_arrival(share: float, error: float, dtype: str) -> list[str]:
    """Format a warning on an update that rounding loses or outweighs; none for another.

    Args:
        share: of the weights that the update changes in float32, those that still differ from the base's.
        error: rounding error relative to the update.
        dtype: they are rounded to.
    """
    if share >= NEARLY_NOTHING and error < 1:
        return []
    if share >= NEARLY_NOTHING:
        times = f"{error:.2g} times as much as the update does"
        return [f"warning: rounding to {dtype} changes the adapted weights {times}; use --dtype float32"]
    lost = "nothing of the update arrives" if not share else "nearly nothing of the update arrives"
    kept = "no weight" if not share else f"{100 * share:.2g} % of the weights"
    return [f"warning: {lost}: rounded to {dtype}, {kept} that it changes differs from the base; use --dtype float32"]


def note_lost_update(source: Path, dtype: str | None) -> list[str]:
    """Return a remark where a copy in half precision loses the update that was fused into its source.

    Args:
        source: folder or file of the model.
        dtype: of the copy; None keeps the source's.
    """
    record = read_record(source) if source.is_dir() else {}
    if dtype not in HALVES or "fused" not in record:
        return []
    found = _recorded(record, dtype)
    if found is None:
        return [f"fused by an earlier version: how much of its update {dtype} keeps is not known; fuse again to see"]
    return describe_arrival(*found, dtype)


def _recorded(record: Mapping[str, Any], dtype: str) -> tuple[float, float] | None:
    halves = record.get(UPDATE_ROUNDED)
    found = halves.get(dtype) if isinstance(halves, dict) else None
    share, error = (found.get("changed"), found.get("error")) if isinstance(found, dict) else (None, None)
    if not isinstance(share, int | float) or not isinstance(error, int | float):
        return None
    return float(share), float(error)
