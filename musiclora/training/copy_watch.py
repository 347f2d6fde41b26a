"""Copy watch of a run: samples of the model are measured against the training songs at evaluations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from musiclora.backends.base import LossSum, Model
from musiclora.evaluation.sample_findings import SampleFindings
from musiclora.training.config import TrainConfig
from musiclora.training.run_folder import BEST, Run, RunProgress
from musiclora.training.task import TrainingTask

ModelT = TypeVar("ModelT", bound=Model)
SAMPLES = 4  # generated at each look
_LOOKS = 20  # of a run that is to end when it copies
_MOST_SHARE = 0.05  # of the training time, where the run is not to end when it copies


class CopyWatch(Generic[ModelT]):
    """Measures samples at evaluations, and decides if a run ends because they copy."""

    def __init__(
        self,
        task: TrainingTask[ModelT],
        config: TrainConfig,
        epochs: int,
        run: Run,
        held_out: Sequence[LossSum],
        say: Callable[[str], None],
    ) -> None:
        """Prepare the watch; nothing is generated yet.

        Args:
            task: data and base.
            config: the options; with stop_when_copying about 20 evaluations of the run are followed by a look, else as
                many as take 5 % of the time.
            epochs: that the planned steps take.
            run: the folder, whose metrics take the figures.
            held_out: losses of the base on the held-out songs, whose weight bounds what is scored of the others.
            say: tells the user.
        """
        self._task, self._config, self._run, self._say = task, config, run, say
        self._epochs, self._every = epochs, max(1, epochs // _LOOKS)
        self._held_out_weight = sum(loss.weight for loss in held_out)
        self._spent = self._last = 0.0
        self._is_told = False

    def look(self, model: ModelT, progress: RunProgress, held_out_loss: float | None) -> bool:
        """Measure samples where that is due, and end the run where they copy and it shall not.

        Returns:
            True where an earlier adapter is to be kept: this one copies, or was not looked at though the run is to end
            when it copies.
        """
        if not _is_watched(self._config):
            return False
        stops, has_best = self._config.stop_when_copying, (self._run.path / BEST).is_dir()
        if not (self._is_due(progress) if stops else self._is_affordable(progress)):
            return stops and has_best  # what nobody looked at is not kept
        started = time.monotonic()
        found = self._task.measure_samples(model, SAMPLES, self._config.seed)
        if found is None:
            if stops and not self._is_told:
                self._say("copies cannot be measured: the songs or the samples are too short")
            self._is_told = True
            return False
        row = found.as_row()
        train_loss = self._training_song_loss(model) if held_out_loss is not None else None
        if train_loss is not None and held_out_loss is not None:
            row["loss_gap"] = round(held_out_loss - train_loss, 6)
        self._run.append_metrics(step=progress.step, epoch=progress.epoch, **row)
        self._last = time.monotonic() - started
        self._spent += self._last
        if found.is_copying:
            self._say(f"step {progress.step}: {found.line()}")
        if not (stops and found.is_copying):
            return False
        progress.ended = "copying"
        return has_best

    def _is_due(self, progress: RunProgress) -> bool:
        """Return True for about _LOOKS evaluations of a run, its first and its last among them."""
        return progress.epoch % self._every == 0 or bool(progress.ended) or progress.epoch + 1 >= self._epochs

    def _is_affordable(self, progress: RunProgress) -> bool:
        return self._spent + max(self._last, 2.0) <= _MOST_SHARE * progress.seconds

    def _training_song_loss(self, model: ModelT) -> float | None:
        """Score training songs in windows like those of the held-out songs, about as many tokens."""
        total = weight = 0.0
        for batch in (batch for batches in self._task.judging_batches(self._config) for batch in batches):
            if weight >= self._held_out_weight:
                break
            loss = model.loss(batch)
            total, weight = total + loss.total, weight + loss.weight
        return total / weight if weight else None


def _is_watched(config: TrainConfig) -> bool:
    """Return True for adapters that are kept: not for bases, folds and points of a learning curve."""
    return config.trainable == "adapter" and config.fold is None and config.train_share is None


def final_findings(
    task: TrainingTask[ModelT], model: ModelT, config: TrainConfig, count: int = 2 * SAMPLES
) -> SampleFindings:
    """Judge samples of the model that is kept; nothing is found where none are watched."""
    return task.judge_samples(model, count, config.seed) if _is_watched(config) else SampleFindings()
