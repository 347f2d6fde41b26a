"""Adapter folder of a training task, with the origin that its record and card state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from musiclora.adapters import find_adapter, training_songs
from musiclora.backends.base import LoraSpec, Model
from musiclora.training.adapter_files import Provenance, save_adapter
from musiclora.training.fold_summary import FoldSummary
from musiclora.training.task import TrainingTask

ModelT = TypeVar("ModelT", bound=Model)


def save_task_adapter(
    path: Path,
    task: TrainingTask[ModelT],
    model: ModelT,
    spec: LoraSpec,
    backend: str,
    held_out_losses: Sequence[float],
    started_from: str | None = None,
    folds: FoldSummary | None = None,
) -> None:
    """Write the model's adapter with its origin; it replaces an older one as a whole.

    Args:
        path: the adapter folder.
        task: data and base.
        model: the base with the adapter.
        spec: the adapter's settings.
        backend: `mlx` or `torch`.
        held_out_losses: all of the run so far, the base's first; empty without held-out songs.
        started_from: adapter that training started from, whose songs were trained on too.
        folds: the cross-validation before a run on all songs, None without one.
    """
    metrics = {}
    if held_out_losses:
        metrics = {"held_out_loss": held_out_losses[-1], "held_out_loss_of_base": held_out_losses[0]}
    origin = Provenance(
        task.base,
        task.family,
        backend,
        task.base_fingerprints(),
        task.count_songs()[0],
        task.extra_files(model),
        task.form,
        {**_with_earlier_songs(task.adapter_record(), started_from), **({"folds": folds.as_json()} if folds else {})},
        [*task.card_lines(), *([folds.card_line()] if folds else [])],
    )
    save_adapter(path, model, spec, origin, metrics)


def _with_earlier_songs(record: dict[str, Any], started_from: str | None) -> dict[str, Any]:
    """Add the hashes of the songs that the adapter at the start was trained on."""
    if started_from is None:
        return record
    earlier = training_songs([find_adapter(started_from)])
    return {**record, "trained_on": sorted({*record.get("trained_on", ()), *earlier})}
