"""Checks of a base before it is trained: that the adapter fits into it, and that it knows the songs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from musiclora.backends.base import LossSum, Model
from musiclora.convert.adapters.lora import check_rank, match_targets
from musiclora.convert.files.json_file import NULL, field_kinds, object_with, read_optional_json
from musiclora.errors import ConvertError
from musiclora.evaluation.scores import total_loss
from musiclora.evaluation.verdict import BaseCheck
from musiclora.families import FamilySpec, resolve
from musiclora.training.config import TrainConfig
from musiclora.training.run_folder import META
from musiclora.training.task import TaskScoring

ModelT = TypeVar("ModelT", bound=Model)
_CHECK = field_kinds(BaseCheck)
_CHECKED = object_with({"base_check": object_with(_CHECK, _CHECK) | NULL})  # of training_meta.json


class HasShapes(Protocol):
    """Configuration of a checkpoint."""

    def linear_shapes(self) -> Mapping[str, tuple[int, int]]:
        """Return (out, in) of every module that can carry LoRA."""


def check_adapter_size(config: TrainConfig, spec: FamilySpec, base: Path) -> None:
    """Refuse targets that match nothing, and a given rank that is too large, before anything is loaded.

    Raises:
        ConfigError: a target that matches nothing, or a rank above the smaller side of a target.
        ConvertError: the base cannot be read.
    """
    shapes_of: HasShapes = resolve(spec.read_checkpoint)(base).config
    shapes = shapes_of.linear_shapes()
    matched = match_targets(shapes, config.lora().targets)
    if config.lora_r is not None:
        check_rank(config.lora_r, {module: shapes[module] for module in matched}, "--lora-r")


def saved_base_check(folder: Path) -> BaseCheck | None:
    """Read the check that an earlier start of a run recorded; None where there is none."""
    try:
        found = read_optional_json(folder / META, _CHECKED).get("base_check")
    except ConvertError:
        return None
    return BaseCheck(**{name: found[name] for name in _CHECK}) if found else None


def compare_with_guess(
    task: TaskScoring[ModelT],
    model: ModelT,
    sums: Sequence[LossSum],
    config: TrainConfig,
    load: Callable[[Path], Model],
) -> BaseCheck | None:
    """Compare the base's loss on all songs with a guess's; None without songs. See `TaskScoring.check_base`."""
    return task.check_base(model, total_loss(sums).mean, config, load) if sums else None


def parameter_lines(trained: int, every: int) -> list[str]:
    """Describe the size of an adapter; empty where it is not known.

    Args:
        trained: parameters of the adapter.
        every: parameters of base and adapter.
    """
    return [f"{trained:,} parameters of the adapter are trained, {trained / every:.3%} of the model"] if every else []
