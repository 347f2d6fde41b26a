"""The job behind `musiclora generate` for both families: the model says which one does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from musiclora.adapters import base_of, find_adapter, parse_adapter
from musiclora.families import family_of, job, refuse_foreign
from musiclora.progress import Reporter


def generate(
    output: Path,
    model: str | None = None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    *,
    compare: bool = False,
    allow_base_mismatch: bool = False,
    reporter: Reporter | None = None,
    **options: Any,
) -> Any:
    """Write new music.

    Args:
        output: the file to write.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number.
        backend: `auto`, `mlx` or `torch`.
        compare: also make the base's version from the same seed.
        allow_base_mismatch: use an adapter although its base differs.
        reporter: told what happens.
        options: what to make, by the names of generation.GenerationRequest (and prompt, tokenizer) or
            audio_making.FlowRequest; None and empty ones were not given and have the family's defaults.

    Returns:
        What the family's part made: backend, base, files (each with path, record() and line()), notes.

    Raises:
        MusicLoraError: whatever does not fit, in one line.
    """
    base = base_of(model, [find_adapter(*parse_adapter(text)) for text in adapters])
    family = family_of(base.path)
    refuse_foreign(family, base.name, options)
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return job(family, "generate").from_options(
        output,
        given,
        model=model,
        adapters=adapters,
        backend=backend,
        compare=compare,
        allow_base_mismatch=allow_base_mismatch,
        reporter=reporter,
    )
