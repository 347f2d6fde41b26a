"""Models and options of a job: found, compared with the data, and reduced to what was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from musiclora.adapters import base_of, find_adapter, parse_adapter
from musiclora.families import FamilySpec, check_data_exists, refuse_foreign, refuse_other_data, spec_of_folder
from musiclora.models import find_model
from musiclora.training.config import DEFAULT_MODEL


class JobResult(Protocol):
    """Result of `preprocess` or `demo`."""

    def record(self) -> dict[str, Any]:
        """Return the values for --json."""

    def lines(self) -> list[str]:
        """Describe the result in lines."""


def find_model_for(data_dir: Path, name: str) -> Path:
    """Find a model's folder; refuse music that only another family learns, for the default model before a download."""
    check_data_exists(data_dir)
    if name == DEFAULT_MODEL:
        refuse_other_data(data_dir, "symbolic", f"the default model {name}")
    path = find_model(name).path
    refuse_other_data(data_dir, spec_of_folder(path).family, name)
    return path


def spec_and_options(
    model: str | None, adapters: Sequence[str], options: Mapping[str, object]
) -> tuple[FamilySpec, dict[str, object]]:
    """Find the model's record and the options that were given; refuse those of another family."""
    base = base_of(model, [find_adapter(*parse_adapter(text)) for text in adapters])
    spec = spec_of_folder(base.path)
    refuse_foreign(spec, base.name, options)
    return spec, drop_missing(options)


def drop_missing(options: Mapping[str, object]) -> dict[str, object]:
    """Drop options that were not given."""
    return {name: value for name, value in options.items() if value not in (None, ())}
