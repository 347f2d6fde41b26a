"""The job behind `musiclora evaluate --data-dir` for both families: the model says which one does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from musiclora.adapters import parse_adapter
from musiclora.evaluation import Evaluation
from musiclora.families import family_of, job, refuse_foreign
from musiclora.models import base_of, find_adapter


def evaluate(
    data_dir: Path, options: Mapping[str, Any], *, model: str | None, adapters: Sequence[str], **common: Any
) -> Evaluation:
    """Score every song of a folder.

    Args:
        data_dir: music or recordings, or a cache that `preprocess` wrote.
        options: of one family, by parameter name; None was not given.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number.
        common: backend, max_seq_len, allow_base_mismatch, workers, reporter.

    Raises:
        MusicLoraError: whatever does not fit, in one line.
    """
    base = base_of(model, [find_adapter(*parse_adapter(text)) for text in adapters])
    family = family_of(base.path)
    refuse_foreign(family, base.name, options)
    given = {name: value for name, value in options.items() if value is not None}
    found: Evaluation = job(family, "evaluate").evaluate(data_dir, model, adapters, **given, **common)
    return found
