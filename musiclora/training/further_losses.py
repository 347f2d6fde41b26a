"""Held-out losses beside the one that judges a run, such as that of accompaniment; they never stop a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from musiclora.backends.base import Arrays, Model
from musiclora.evaluation.scores import total_loss
from musiclora.progress import Reporter

FurtherBatches = Mapping[str, Sequence[Arrays]]


@dataclass(frozen=True)
class FurtherLoss:
    """Held-out loss of the base and of the best trained arrays on one further set; None where it was not computed."""

    base: float | None
    trained: float | None

    def describe(self, key: str) -> str:
        """Format 'held-out accompaniment loss 1.2 -> 1.1'.

        Args:
            key: of metrics.jsonl, such as `val_accompaniment_loss`.
        """
        name = key.removeprefix("val_").replace("_", " ")
        return f"held-out {name} {_number(self.base)} -> {_number(self.trained)}"


def further_losses(model: Model, further: FurtherBatches, out: Reporter | None = None) -> dict[str, float]:
    """Compute the mean loss of each further set, by its key in metrics.jsonl; no gradient, no dropout."""
    found = {}
    for name, batches in further.items():
        with (out or Reporter()).task(f"scoring {name}") as update:
            sums = []
            for number, batch in enumerate(batches, 1):
                sums.append(model.loss(batch))
                update(number, len(batches))
        found[f"val_{name}_loss"] = total_loss(sums).mean
    return found


def compare_further(metrics: Sequence[Mapping[str, Any]], after: Mapping[str, float]) -> dict[str, FurtherLoss]:
    """Compare the losses of the trained arrays with those of the base, which the first line of metrics.jsonl holds.

    Args:
        metrics: lines of metrics.jsonl.
        after: of the trained arrays, by key of metrics.jsonl.
    """
    base = next((row for row in metrics if row.get("step") == 0), {})
    return {key: FurtherLoss(base.get(key), loss) for key, loss in after.items()}


def further_entries(further: Mapping[str, FurtherLoss]) -> dict[str, float | None]:
    """Return the entries of training_meta.json and of `--json`."""
    entries: dict[str, float | None] = {}
    for key, loss in further.items():
        entries |= {f"base_{key}": _finite(loss.base), key: _finite(loss.trained)}
    return entries


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
