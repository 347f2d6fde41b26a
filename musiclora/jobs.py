"""The jobs behind the commands, for programs: train, pretrain, evaluate, generate, demo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiclora.adapters import base_of, find_adapter, parse_adapter
from musiclora.families import family_of, job, refuse_foreign
from musiclora.progress import Reporter
from musiclora.training.config import TrainConfig
from musiclora.training.result import TrainResult

if TYPE_CHECKING:
    from musiclora.evaluation.scores import Evaluation
    from musiclora.symbolic.pretrain import PretrainOptions

__all__ = ["Reporter", "TrainResult", "demo", "evaluate", "generate", "pretrain", "train"]


def train(config: TrainConfig, reporter: Reporter | None = None, restart: bool = False) -> TrainResult:
    """Adapt a base model to a folder of music; resumes an unfinished run in the same folder."""
    from musiclora.training.session import Session

    return Session(config, reporter).train(restart)


def pretrain(
    config: TrainConfig, options: PretrainOptions, reporter: Reporter | None = None, restart: bool = False
) -> TrainResult:
    """Train a symbolic base from scratch; see `symbolic.pretrain.pretrain_base`."""
    from musiclora.symbolic.pretrain import pretrain_base

    return pretrain_base(config, options, reporter, restart)


def demo(*args: Any, **options: Any) -> Any:
    """Run the symbolic demo; see `demo.symbolic.symbolic_demo`."""
    from musiclora.demo.symbolic import symbolic_demo

    return symbolic_demo(*args, **options)


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
    return job(family, "generate")(
        output,
        given,
        model=model,
        adapters=adapters,
        backend=backend,
        compare=compare,
        allow_base_mismatch=allow_base_mismatch,
        reporter=reporter,
    )


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
    found: Evaluation = job(family, "evaluate")(Path(data_dir), model, adapters, backend, **given)
    return found
