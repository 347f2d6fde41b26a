"""Cross-validation over songs: one run a fold in `folds/`, then one on all songs with the steps that they chose."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

from musiclora.convert.files.atomic import write_json
from musiclora.convert.files.folder_lock import LOCK_FILE
from musiclora.convert.files.json_file import field_kinds, object_with, read_json
from musiclora.errors import ConfigError, ConvertError, DataError, TrainingError
from musiclora.progress import Reporter
from musiclora.training.config import TrainConfig
from musiclora.training.fold_summary import FoldResult, FoldSummary
from musiclora.training.limits import SessionOptions
from musiclora.training.result import TrainResult
from musiclora.training.resume import check_same_run
from musiclora.training.run_folder import FOLDS, Run
from musiclora.training.session import Session

RESULT = "fold.json"  # in a fold's run folder, once the fold is finished
_RESULT_KIND = object_with(field_kinds(FoldResult), [f.name for f in dataclasses.fields(FoldResult)])
# Settings that make a finished fold longer; `check_same_run` lets them change.
_LENGTH = ("epochs", "max_steps", "patience")


class OpenSession(Protocol):
    """Opens a session; see `jobs.open_session`."""

    def __call__(
        self, config: TrainConfig, reporter: Reporter | None, run: Run | None, options: SessionOptions | None
    ) -> Session[Any]: ...


def train_folds(
    config: TrainConfig, run: Run, open_session: OpenSession, reporter: Reporter, restart: bool = False
) -> TrainResult:
    """Cross-validate, then train on all songs; a later call resumes at the fold that was interrupted.

    Args:
        config: the options, with `folds`.
        run: the run folder; its lock is held.
        open_session: opens one training run.
        reporter: told what happens.
        restart: begin again and keep the old run with its folds as a backup.

    Raises:
        ConfigError: --val-split 0 or full fine-tuning, which have no folds.
        DataError: fewer songs than folds.
        TrainingError: the folder holds another run, or one without folds.
    """
    folds = config.folds or 0
    if config.val_split == 0:
        raise ConfigError("--folds holds out each song once, and --val-split 0 none; leave one of them out")
    run.recover()
    if restart and any(path.name != LOCK_FILE for path in run.path.iterdir()):
        reporter.say(f"the old run is kept in {run.set_aside()}")
    if run.exists and not (run.path / FOLDS).is_dir():
        raise TrainingError(f"{run.path}: holds a run without folds; use --restart or another folder")
    first = open_session(_fold_config(config, 1), reporter, None, None)  # refuses what does not fit at the first fold
    results = []
    for number in range(1, folds + 1):
        reporter.say(f"fold {number} of {folds}")
        session = first if number == 1 else open_session(_fold_config(config, number), reporter, None, None)
        results.append(run_fold(session))
        reporter.say(f"fold {number} of {folds}: gain {results[-1].gain:.4f} {results[-1].unit}")
    summary = FoldSummary(tuple(results))
    reporter.say(summary.describe())
    reporter.say("training on all songs")
    options = SessionOptions(folds=summary, stop_step=summary.steps)
    whole = dataclasses.replace(config, val_split=0.0)
    return open_session(whole, reporter, run, options).train()


def _fold_config(config: TrainConfig, number: int) -> TrainConfig:
    folder = Path(config.output_dir) / FOLDS / str(number)
    return dataclasses.replace(config, output_dir=str(folder), fold=number, sample_every=0)


def run_fold(session: Session[Any]) -> FoldResult:
    """Train a session, or read the result that it left, where it is finished and the same is asked for.

    Raises:
        TrainingError: the folder holds another run.
    """
    config, path = session.config, session.run.path / RESULT
    asked = {name: getattr(config, name) for name in _LENGTH}
    if path.is_file() and session.run.exists:
        check_same_run(session.run, config, session.backend_name, session.task.hash_data())
        found = _read_result(path)
        if found is not None and found[1] == asked:
            return found[0]
    result = session.train()
    if result.gain is None or result.before is None or result.after is None:
        raise DataError(f"{session.run.path}: this fold holds out no song")
    done = result.progress
    fold = FoldResult(
        result.gain.by_song,
        result.gain.unit,
        result.before.loss,
        result.after.loss,
        done.best_step,
        done.step,
        session.task.count_songs()[0],
    )
    write_json(path, {**dataclasses.asdict(fold), "asked": asked})
    return fold


def _read_result(path: Path) -> tuple[FoldResult, dict[str, Any]] | None:
    """Read a fold's result and the lengths that were asked for; None where it is damaged."""
    try:
        content = read_json(path, _RESULT_KIND)
    except ConvertError:
        return None
    values = {f.name: content[f.name] for f in dataclasses.fields(FoldResult)}
    try:
        values["by_song"] = tuple((float(total), float(count)) for total, count in values["by_song"])
    except (TypeError, ValueError):
        return None
    return FoldResult(**values), content.get("asked", {})
