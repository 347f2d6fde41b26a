"""Public API: one typed function for each command that trains, generates, scores or prepares.

The architecture of the model decides which functions do the work; see `families.FamilySpec`. Errors are raised as
`MusicLoraError` with one sentence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from musiclora.adapters import base_of, find_adapter, parse_adapter
from musiclora.convert.files.outputs import check_apart
from musiclora.families import FamilySpec, refuse_foreign, refuse_other_data, resolve, spec_of_family, spec_of_folder
from musiclora.formats import check_writable
from musiclora.generation_result import GenerationResult
from musiclora.models import find_model
from musiclora.progress import Reporter
from musiclora.training.config import DEFAULT_MODEL, TrainConfig
from musiclora.training.result import TrainResult

if TYPE_CHECKING:
    from musiclora.evaluation.verdict import Evaluation
    from musiclora.symbolic.pretrain import PretrainOptions
    from musiclora.training.run_folder import Run
    from musiclora.training.session import Session

__all__ = ["Reporter", "TrainResult", "demo", "evaluate", "generate", "open_session", "preprocess", "pretrain", "train"]


class JobResult(Protocol):
    """Result of `preprocess` or `demo`."""

    def record(self) -> dict[str, Any]:
        """Return the values for --json."""

    def lines(self) -> list[str]:
        """Describe the result in lines."""


class PreprocessResult(JobResult, Protocol):
    """Result of `preprocess`."""

    def notes(self) -> Sequence[str]:
        """List what the user should know."""


def train(config: TrainConfig, reporter: Reporter | None = None, restart: bool = False) -> TrainResult:
    """Adapt a base model to a folder of music; resume an unfinished run in the same folder.

    Args:
        config: the options.
        reporter: told what happens.
        restart: begin again and keep the old run as a backup.

    Raises:
        MusicLoraError: the data, the base or the options do not fit.
    """
    from musiclora.training.resume import open_run

    run = open_run(config)
    with run.locked():  # before the songs are read, which may take minutes
        return open_session(config, reporter, run).train(restart)


def open_session(config: TrainConfig, reporter: Reporter | None = None, run: Run | None = None) -> Session[Any]:
    """Load the data and the base's description, and check all that can be checked before the model is loaded.

    Args:
        config: the options; the model decides the family.
        reporter: told what happens.
        run: the folder, where its lock is held already.

    Raises:
        MusicLoraError: the data, the base or the options do not fit.
    """
    from musiclora.backends.registry import choose
    from musiclora.training.base_check import check_adapter_size
    from musiclora.training.resume import open_run
    from musiclora.training.session import Session
    from musiclora.training.start_adapter import take_adapter_settings

    run = run or open_run(config)
    backend = choose(config.backend)
    config, notes = take_adapter_settings(config)
    base = _find_model_for(Path(config.data_dir), config.model)
    spec = spec_of_folder(base)
    config = dataclasses.replace(config, family=spec.family)
    refuse_foreign(spec.family, config.model, config.changed())
    check_adapter_size(config, spec, base)
    out = reporter or Reporter()
    for text in notes:
        out.say(text)
    task = resolve(spec.load_task)(config, out, backend)
    return Session(config, task, out, run=run)


def pretrain(
    config: TrainConfig, options: PretrainOptions, reporter: Reporter | None = None, restart: bool = False
) -> TrainResult:
    """Train a symbolic base from scratch; see `symbolic.pretrain.pretrain_base`."""
    from musiclora.symbolic.pretrain import pretrain_base

    return pretrain_base(config, options, reporter, restart)


def generate(
    output: Path,
    model: str | None = None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    *,
    compare: bool = False,
    allow_base_mismatch: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    seed: int | None = None,
    count: int | None = None,
    tokenizer: str | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    prompt: Path | None = None,
    prompt_bars: int | None = None,
    seconds: float | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    style: str | None = None,
    negative_style: Path | None = None,
    init_audio: Path | None = None,
    repaint: tuple[tuple[float, float], ...] = (),
    vae: Path | None = None,
) -> GenerationResult:
    """Write new music with a base model and any number of adapters.

    An option that is None has the default of the model's family; see `symbolic.decoding.continuation.GenerationRequest`
    and `audio.flow_sampling.FlowRequest`.

    Args:
        output: the file to write; several pieces become `F-001.mid` and so on.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number.
        backend: `auto`, `mlx` or `torch`.
        compare: also write the base's version from the same seed.
        allow_base_mismatch: use an adapter although its base differs.
        overwrite: replace files that exist.
        reporter: told what happens.
        seed: piece i of one seed is the same for every count.
        count: number of pieces.
        tokenizer, max_new_tokens, temperature, top_p, top_k, prompt, prompt_bars: of the symbolic family.
        seconds, steps, guidance, style, negative_style, init_audio, repaint, vae: of the audio family.

    Raises:
        MusicLoraError: the options, the model or the adapters do not fit.
    """
    options: dict[str, object] = {
        "seed": seed,
        "count": count,
        "tokenizer": tokenizer,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "prompt": prompt,
        "prompt_bars": prompt_bars,
        "seconds": seconds,
        "steps": steps,
        "guidance": guidance,
        "style": style,
        "negative_style": negative_style,
        "init_audio": init_audio,
        "repaint": repaint,
        "vae": vae,
    }
    spec, given = _spec_and_options(model, adapters, options)
    result: GenerationResult = resolve(spec.generate)(
        output,
        given,
        model=model,
        adapters=adapters,
        backend=backend,
        compare=compare,
        allow_base_mismatch=allow_base_mismatch,
        overwrite=overwrite,
        reporter=reporter,
    )
    return result


def evaluate(
    data_dir: Path,
    model: str | None = None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    *,
    max_seq_len: int | None = None,
    allow_base_mismatch: bool = False,
    workers: int | None = None,
    reporter: Reporter | None = None,
    tokenizer: str | None = None,
    vae: Path | None = None,
) -> Evaluation:
    """Score every song of a folder.

    Args:
        data_dir: music or recordings, or a cache that `preprocess` wrote.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number.
        backend: `auto`, `mlx` or `torch`.
        max_seq_len: longest row in tokens or frames.
        allow_base_mismatch: use an adapter although its base differs.
        workers: processes that read music.
        reporter: told what happens.
        tokenizer: of the symbolic family: instead of the model's own.
        vae: of the audio family: the codec instead of the model's.

    Raises:
        MusicLoraError: the folder, the model or the adapters do not fit.
    """
    spec, given = _spec_and_options(model, adapters, {"tokenizer": tokenizer, "vae": vae})
    refuse_other_data(Path(data_dir), spec.family, model or "the adapter's base")
    found: Evaluation = resolve(spec.evaluate)(
        Path(data_dir),
        model,
        adapters,
        backend,
        max_seq_len=max_seq_len,
        allow_base_mismatch=allow_base_mismatch,
        workers=workers,
        reporter=reporter,
        **given,
    )
    return found


def preprocess(
    data_dir: Path,
    output_dir: Path,
    model: str | None = None,
    backend: str = "auto",
    *,
    seed: int = 42,
    num_workers: int | None = None,
    reporter: Reporter | None = None,
    tokenizer: str | None = None,
    vae: Path | None = None,
    style: str | None = None,
    posterior: str | None = None,
) -> PreprocessResult:
    """Tokenise or encode a folder once; `train` and `evaluate` accept the result in its place.

    Args:
        data_dir: music, or recordings.
        output_dir: the token cache, or the latents folder.
        model: model whose tokenizer or codec is used; None is the default base.
        backend: `auto`, `mlx` or `torch`; only the audio family computes.
        seed: of the posterior's samples.
        num_workers: processes that read and tokenise.
        reporter: told what happens.
        tokenizer: of the symbolic family: instead of the model's own, which is then not needed.
        vae, style, posterior: of the audio family; see `audio.preprocess.preprocess_recordings`.

    Raises:
        MusicLoraError: the folder, the model or the options do not fit.
    """
    check_apart(output_dir, {"--data-dir": data_dir})
    check_writable(output_dir, "--output-dir")
    name = model or DEFAULT_MODEL
    options = {"tokenizer": tokenizer, "vae": vae, "style": style, "posterior": posterior}
    # A tokenizer that is named needs no model, hence none that has to be fetched.
    spec = spec_of_family("symbolic") if tokenizer else spec_of_folder(_find_model_for(data_dir, name))
    refuse_foreign(spec.family, name, options)
    result: PreprocessResult = resolve(spec.preprocess)(
        data_dir,
        output_dir,
        name,
        reporter or Reporter(),
        backend=backend,
        seed=seed,
        num_workers=num_workers,
        **_drop_missing(options),
    )
    return result


def demo(
    output_dir: Path,
    family: str = "symbolic",
    backend: str = "auto",
    *,
    steps: int | None = None,
    reporter: Reporter | None = None,
) -> tuple[JobResult, list[str]]:
    """Adapt a bundled base to music of another tradition, offline.

    Args:
        output_dir: folder of the adapter, the music and the report.
        family: `symbolic` or `audio`.
        backend: `auto`, `mlx` or `torch`.
        steps: optimiser steps; None is the family's default, fewer on a slow machine.
        reporter: told what happens.

    Returns:
        The result, and commands to run next.

    Raises:
        MusicLoraError: the songs are not installed, or the folder holds something else.
    """
    spec = spec_of_family(family)
    options = resolve(spec.demo_options)(**({} if steps is None else {"steps": steps}))
    result: JobResult = resolve(spec.demo)(output_dir, backend, options, reporter)
    commands: list[str] = resolve(spec.next_commands)(result)
    return result, commands


def _find_model_for(data_dir: Path, name: str) -> Path:
    """Find a model's folder; refuse music that only another family learns, for the default model before a download."""
    if name == DEFAULT_MODEL:
        refuse_other_data(data_dir, "symbolic", f"the default model {name}")
    path = find_model(name).path
    refuse_other_data(data_dir, spec_of_folder(path).family, name)
    return path


def _spec_and_options(
    model: str | None, adapters: Sequence[str], options: Mapping[str, object]
) -> tuple[FamilySpec, dict[str, object]]:
    """Find the model's record and the options that were given; refuse those of another family."""
    base = base_of(model, [find_adapter(*parse_adapter(text)) for text in adapters])
    spec = spec_of_folder(base.path)
    refuse_foreign(spec.family, base.name, options)
    return spec, _drop_missing(options)


def _drop_missing(options: Mapping[str, object]) -> dict[str, object]:
    """Drop options that were not given."""
    return {name: value for name, value in options.items() if value not in (None, ())}
