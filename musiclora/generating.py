"""The job behind `musiclora generate` for both families: the model says which one does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from musiclora.adapters import parse_adapter
from musiclora.families import family_of, job, refuse_foreign
from musiclora.models import base_of, find_adapter


def generate(
    output: Path, options: Mapping[str, Any], *, model: str | None, adapters: Sequence[str], **common: Any
) -> Any:
    """Write new music.

    Args:
        output: the file to write.
        options: by parameter name; None and empty ones were not given and have the family's defaults.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number.
        common: backend, compare, allow_base_mismatch, reporter.

    Returns:
        What the family's part made: backend, base, files (each with path, record() and line()), notes.

    Raises:
        MusicLoraError: whatever does not fit, in one line.
    """
    base = base_of(model, [find_adapter(*parse_adapter(text)) for text in adapters])
    family = family_of(base.path)
    refuse_foreign(family, base.name, options)
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return job(family, "generate").from_options(output, given, model=model, adapters=adapters, **common)
