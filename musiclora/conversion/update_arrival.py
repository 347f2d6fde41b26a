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
NEARLY_NOTHING = 0.01  # share of the changed weights; a trained adapter keeps a tenth and more
UPDATE_KEPT = "update_kept"  # key of a fused model's record


@dataclass
class UpdateArrival:
    """Count of the weights that an update changes, before and after rounding.

    Attributes:
        changed: weights that it changes in float32.
        stored: those of them that differ from the base's as they are stored.
        halves: those that would differ in each half precision.
    """

    changed: int = 0
    stored: int = 0
    halves: dict[str, int] = field(default_factory=lambda: dict.fromkeys(HALVES, 0))

    def add(self, base: np.ndarray, fused: np.ndarray, stored: Dtype) -> None:
        """Count one weight tensor: the base's, the same with the update in float32, and the dtype that is stored."""
        exact = base.astype(np.float32)
        self.changed += int(np.count_nonzero(exact != fused))
        counts = {half: _count_changes(exact, fused, dtype_named(half)) for half in HALVES}
        self.halves = {half: self.halves[half] + count for half, count in counts.items()}
        self.stored += counts[stored.name] if stored.name in counts else _count_changes(exact, fused, stored)

    def notes(self, dtype: str) -> list[str]:
        """Return a warning where nothing, or nearly nothing, of an update that is not zero arrives.

        Args:
            dtype: stored dtype of the weights; where they have several, the one that rounds most.
        """
        if not self.changed:
            return ["warning: the update changes no weight, not even in float32: the fused model is the base"]
        return describe_arrival(self.stored / self.changed, dtype)

    def record(self) -> dict[str, dict[str, float]]:
        """Return the entry of a fused model's record: the share that arrives in each half precision."""
        if not self.changed:
            return {}
        return {UPDATE_KEPT: {half: round(count / self.changed, 6) for half, count in self.halves.items()}}


def _count_changes(base: np.ndarray, fused: np.ndarray, dtype: Dtype) -> int:
    with np.errstate(over="ignore"):  # what does not fit is refused where it is written
        return int(np.count_nonzero(base.astype(dtype) != fused.astype(dtype)))


def describe_arrival(share: float, dtype: str) -> list[str]:
    """Format a warning on an update that rounding loses; none where more than NEARLY_NOTHING of it arrives.

    Args:
        share: of the weights that the update changes in float32, those that still differ from the base's.
        dtype: they are rounded to.
    """
    if share >= NEARLY_NOTHING:
        return []
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
    share = _recorded_share(record, dtype)
    if share is None:
        return [f"fused by an earlier version: how much of its update {dtype} keeps is not known; fuse again to see"]
    return describe_arrival(share, dtype)


def _recorded_share(record: Mapping[str, Any], dtype: str) -> float | None:
    kept = record.get(UPDATE_KEPT)
    share = kept.get(dtype) if isinstance(kept, dict) else None
    return float(share) if isinstance(share, int | float) else None
