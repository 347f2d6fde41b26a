"""Adapter folder of a training task, with the origin that its record and card state."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from musiclora.adapters import find_adapter, training_songs
from musiclora.backends.base import LoraSpec, Model
from musiclora.training.adapter_files import Provenance, save_adapter
from musiclora.training.outcome import RunOutcome
from musiclora.training.run_folder import Run
from musiclora.training.task import TrainingTask

ModelT = TypeVar("ModelT", bound=Model)


def save_task_adapter(
    path: Path,
    task: TrainingTask[ModelT],
    model: ModelT,
    spec: LoraSpec,
    backend: str,
    run: Run,
    outcome: RunOutcome,
) -> None:
    """Write the model's adapter with its origin; it replaces an older one as a whole.

    Args:
        path: the adapter folder.
        task: data and base.
        model: the base with the adapter.
        spec: the adapter's settings.
        backend: `mlx` or `torch`.
        run: the run folder, whose metrics hold the held-out losses, the base's first.
        outcome: of the run so far.
    """
    rows = [row for row in run.read_metrics() if "val_loss" in row and outcome.covers(row["step"])]
    held_out_losses, metrics = [row["val_loss"] for row in rows], {}
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
        {**_with_earlier_songs(task.adapter_record(), outcome.started_from), **outcome.record()},
        [*outcome.lines(), *task.card_lines()],
    )
    save_adapter(path, model, spec, origin, metrics)


def _with_earlier_songs(record: dict[str, Any], started_from: str | None) -> dict[str, Any]:
    """Add the hashes of the songs that the adapter at the start was trained on."""
    if started_from is None:
        return record
    earlier = training_songs([find_adapter(started_from)])
    return {**record, "trained_on": sorted({*record.get("trained_on", ()), *earlier})}
