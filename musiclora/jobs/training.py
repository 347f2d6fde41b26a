"""Public API of `musiclora train`, `pretrain` and `demo`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiclora.errors import ConfigError, DataError
from musiclora.families import (
    SPECS,
    FamilySpec,
    check_data_exists,
    refuse_foreign,
    resolve,
    spec_of_data,
    spec_of_family,
    spec_of_folder,
)
from musiclora.jobs.models import JobResult, find_model_for
from musiclora.progress import Reporter
from musiclora.training.config import TrainConfig
from musiclora.training.result import TrainResult

if TYPE_CHECKING:
    from musiclora.symbolic.pretrain import PretrainOptions
    from musiclora.training.learning_curve import LearningCurve
    from musiclora.training.limits import SessionOptions
    from musiclora.training.plan import TrainingPlan
    from musiclora.training.run_folder import Run
    from musiclora.training.session import Session


def train(config: TrainConfig, reporter: Reporter | None = None, restart: bool = False) -> TrainResult:
    """Adapt a base model to a folder of music; resume an unfinished run in the same folder.

    Args:
        config: the options.
        reporter: told what happens.
        restart: begin again and keep the old run as a backup.

    Raises:
        MusicLoraError: the data, the base or the options do not fit.
    """
    from musiclora.training.folds import train_folds
    from musiclora.training.resume import open_run

    run = open_run(config)
    with run.locked():  # before the songs are read, which may take minutes
        if config.folds and config.fold is None:
            return train_folds(config, run, open_session, reporter or Reporter(), restart)
        return open_session(config, reporter, run).train(restart)


def plan(config: TrainConfig, reporter: Reporter | None = None) -> TrainingPlan:
    """Plan a training and probe its speed and memory; nothing is written.

    Args:
        config: the options.
        reporter: told what the data and the plan are.

    Raises:
        MusicLoraError: the data, the base or the options do not fit.
    """
    if config.folds:
        raise ConfigError("--dry-run plans one training; leave --folds out")
    found = open_session(config, reporter).measure()
    for line in found.lines():
        (reporter or Reporter()).say(line)
    return found


def open_session(
    config: TrainConfig,
    reporter: Reporter | None = None,
    run: Run | None = None,
    options: SessionOptions | None = None,
) -> Session[Any]:
    """Load the data and the base's description, and check all that can be checked before the model is loaded.

    Args:
        config: the options; the model decides the family.
        reporter: told what happens.
        run: the folder, where its lock is held already.
        options: limits of the run.

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
    base = find_model_for(Path(config.data_dir), config.model)
    spec = spec_of_folder(base)
    own = None if spec is spec_of_family(spec.family) else spec.architecture  # the first is the family's default
    config = dataclasses.replace(config, family=spec.family, architecture=own)
    refuse_foreign(spec, config.model, config.changed())
    check_adapter_size(config, spec, base)
    out = reporter or Reporter()
    for text in notes:
        out.say(text)
    task = resolve(spec.load_task)(config, out, backend)
    return Session(config, task, out, options, run)


def learning_curve(
    config: TrainConfig, seeds: int = 3, reporter: Reporter | None = None, restart: bool = False
) -> LearningCurve:
    """Measure the held-out gain at growing shares of the songs; see `training.learning_curve.measure_curve`.

    Args:
        config: the options of each training.
        seeds: trainings at each share.
        reporter: told what happens.
        restart: begin again and keep the old folder as a backup.

    Raises:
        MusicLoraError: the data, the base or the options do not fit.
    """
    from musiclora.training.learning_curve import measure_curve
    from musiclora.training.resume import open_run

    open_run(config)
    return measure_curve(config, open_session, reporter or Reporter(), seeds, restart)


def pretrain(
    config: TrainConfig, options: PretrainOptions, reporter: Reporter | None = None, restart: bool = False
) -> TrainResult:
    """Train a symbolic base from scratch; see `symbolic.pretrain.pretrain_base`."""
    from musiclora.symbolic.pretrain import pretrain_base

    data_dir = Path(config.data_dir)
    check_data_exists(data_dir)
    found = spec_of_data(data_dir)
    if found and found.family != "symbolic":
        raise ConfigError(
            f"{data_dir}: holds {found.data}, and pretrain makes symbolic bases only; train adapts --model "
            f"{found.bundled} to {found.data}"
        )
    return pretrain_base(config, options, reporter, restart)


def _spec_of_music(data_dir: Path, family: str | None) -> FamilySpec:
    """Find the record of a demo's music.

    Raises:
        ConfigError: there is no such folder, or it holds the music of several families, or of another than asked for.
        DataError: it holds no music.
    """
    if not data_dir.exists():
        raise ConfigError(f"{data_dir}: no such file or folder; give a folder of songs or recordings")
    found, words = spec_of_data(data_dir), {spec.family: spec.data for spec in reversed(SPECS)}
    if family is None and found:
        return found
    held = [one for one in words if resolve(spec_of_family(one).owns_data)(data_dir)]
    if not held:
        raise DataError(f"{data_dir}: holds neither {' nor '.join(reversed(words.values()))}")
    if family is None:
        raise ConfigError(f"{data_dir}: holds both {' and '.join(words[one] for one in held)}; choose one by --family")
    if family not in held:
        raise ConfigError(f"{data_dir}: holds {words[held[0]]}; give --family {held[0]}, or leave --family out")
    return spec_of_family(family)


def demo(
    output_dir: Path,
    family: str | None = None,
    backend: str = "auto",
    *,
    steps: int | None = None,
    reporter: Reporter | None = None,
    data_dir: Path | None = None,
) -> tuple[JobResult, list[str]]:
    """Adapt a bundled base to one's own songs, or to bundled music of another style, offline.

    Args:
        output_dir: folder of the adapter, the music and the report.
        family: `symbolic` or `audio`; None finds it from the songs, and is `symbolic` without them.
        backend: `auto`, `mlx` or `torch`.
        steps: optimiser steps; None is the family's default, fewer on a slow machine.
        reporter: told what happens.
        data_dir: folder of songs or recordings; None is the demo's own music.

    Returns:
        The result, and commands to run next.

    Raises:
        MusicLoraError: the songs do not do or are not installed, or the output folder holds something else.
    """
    spec = _spec_of_music(data_dir, family) if data_dir else spec_of_family(family or "symbolic")
    options = resolve(spec.demo_options)(**({} if steps is None else {"steps": steps}))
    result: JobResult = resolve(spec.demo)(output_dir, backend, options, reporter, data_dir)
    commands: list[str] = resolve(spec.next_commands)(result)
    return result, commands
