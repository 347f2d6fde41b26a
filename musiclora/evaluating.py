"""The job behind `musiclora evaluate --data-dir` for both families: the model says which one does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from musiclora.adapters import base_of, find_adapter, parse_adapter
from musiclora.evaluation.scores import Evaluation
from musiclora.families import family_of, job, refuse_foreign


def evaluate(
    data_dir: Path, model: str | None = None, adapters: Sequence[str] = (), backend: str = "auto", **options: Any
) -> Evaluation:
    """Score every song of a folder.

    Args:
        data_dir: music or recordings, or a cache that `preprocess` wrote.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number.
        backend: `auto`, `mlx` or `torch`.
        options: max_seq_len, allow_base_mismatch, workers, reporter; tokenizer for symbolic models, vae for audio ones.
            None was not given.

    Raises:
        MusicLoraError: whatever does not fit, in one line.
    """
    base = base_of(model, [find_adapter(*parse_adapter(text)) for text in adapters])
    family = family_of(base.path)
    refuse_foreign(family, base.name, options)
    given = {name: value for name, value in options.items() if value is not None}
    found: Evaluation = job(family, "evaluate").evaluate(Path(data_dir), model, adapters, backend, **given)
    return found
