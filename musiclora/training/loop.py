"""The training loop: one for both backends, both families, adapters and full fine-tuning."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np

from musiclora.backends.base import Arrays, LossSum, Model, Training
from musiclora.children.interrupts import handled_signals, interruption
from musiclora.errors import TrainingError
from musiclora.evaluation.scores import total_loss
from musiclora.progress import OnProgress
from musiclora.training.further_losses import FurtherBatches, further_losses
from musiclora.training.lazy_batches import parts_of
from musiclora.training.run_folder import Run, RunProgress
from musiclora.training.schedule import decay_factor, learning_rate
from musiclora.training.task import Epochs


@dataclass(frozen=True)
class LoopOptions:
    """Options of the training loop.

    Attributes:
        epochs: passes over the data.
        accumulate: batches in one optimiser step.
        lr: peak learning rate.
        schedule: one of musiclora.training.schedule.SCHEDULES.
        warmup: optimiser steps of linear rise.
        total: optimiser steps of the whole run, for the schedule.
        patience: evaluations without a better held-out loss before stopping; 0 never stops.
        max_steps: optimiser steps after which the run stops; 0 no limit.
        max_seconds: training time after which the run stops; the schedule then follows the clock; 0 no limit.
        save_seconds: longest time between two saves of the state.
        evaluate_every: optimiser steps between evaluations inside an epoch; 0 evaluates at its end only.
        evaluate_epochs: evaluate every N epochs and after the last one.
        unit: counts speed: `tokens` or `frames`.
        values: scored targets in one unit.
    """

    epochs: int
    accumulate: int
    lr: float
    schedule: str
    warmup: int
    total: int
    patience: int = 0
    max_steps: int = 0
    max_seconds: float = 0.0
    save_seconds: float = 120.0
    evaluate_every: int = 0
    evaluate_epochs: int = 1
    unit: str = "tokens"
    values: int = 1


@dataclass
class Hooks:
    """Callbacks of the loop; each has a default that does nothing.

    Attributes:
        save_best, save_last: write the trained arrays as a user's file.
        arrays: trained arrays for the state folder.
        fill_state: writes further files into the state folder.
        on_step: told of each step, for the display.
        on_evaluation: told of each evaluation.
        rejects: called at each evaluation with the held-out loss, None without held-out songs; True keeps an earlier
            best. It may end the run.
        after_epoch: called with the number of epochs done.
    """

    save_best: Callable[[], None] = lambda: None
    save_last: Callable[[], None] = lambda: None
    arrays: Callable[[], Mapping[str, np.ndarray]] = dict
    fill_state: Callable[[Path], None] | None = None
    on_step: Callable[[StepNote], None] = lambda note: None
    on_evaluation: Callable[[RunProgress, float], None] = lambda progress, loss: None
    rejects: Callable[[RunProgress, float | None], bool] = lambda progress, loss: False
    after_epoch: Callable[[int], None] = lambda epoch: None


@dataclass(frozen=True)
class StepNote:
    """One optimiser step, as the progress display shows it."""

    progress: RunProgress
    steps: int
    loss: float
    lr: float
    speed: float
    seconds_left: float
    unit: str = "tokens"


@dataclass
class StopRequest:
    """Signal that asks the loop to stop after the step under way; 0 while none came."""

    signal: int = 0


def evaluate_batches(model: Model, batches: Sequence[Arrays], on_batch: OnProgress | None = None) -> LossSum:
    """Sum the losses of batches, without gradient and dropout."""
    total = weight = 0.0
    for number, batch in enumerate(batches, 1):
        part = model.loss(batch)
        total, weight = total + part.total, weight + part.weight
        if on_batch is not None:
            on_batch(number, len(batches))
    return LossSum(total, weight)


def group_batches(batches: Sequence[Arrays], accumulate: int) -> list[Sequence[Arrays]]:
    """Group batches by optimiser step; the last step of an epoch may have fewer."""
    return [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]


@dataclass
class Loop:
    """Training loop from the recorded progress to the end of the run; it saves on its way."""

    model: Model
    training: Training
    data: Epochs
    held_out: Sequence[Arrays]
    options: LoopOptions
    run: Run
    progress: RunProgress = field(default_factory=RunProgress)
    hooks: Hooks = field(default_factory=Hooks)
    further: FurtherBatches = field(default_factory=dict)
    _saved_at: float = field(default_factory=time.monotonic)
    _clock_at: float = field(default_factory=time.monotonic)
    _stop: StopRequest = field(default_factory=StopRequest)

    def go(self) -> RunProgress:
        """Train until the epochs, steps, seconds or patience are used up.

        Raises:
            TrainingError: a loss or gradient that is not finite; the state before that step is saved.
            KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP came; the step under way was finished and saved.
        """
        self.progress.ended = ""
        self._clock_at = self._saved_at = time.monotonic()
        with _finish_step_on_signal(self._stop):
            while not self.progress.ended and self.progress.epoch < self.options.epochs:
                self._run_epoch()
        self.progress.ended = self.progress.ended or "epochs"
        self.save()
        return self.progress

    def _run_epoch(self) -> None:
        p, steps = self.progress, group_batches(self.data.batches(self.progress.epoch), self.options.accumulate)
        if not steps:
            raise TrainingError("there is nothing to train on: the training songs give no batch")
        p.ended = self._end_reason()  # where the run was stopped right after its last step
        self._evaluate_within(len(steps))  # where it was stopped between a step and its evaluation
        while p.index < len(steps) and not p.ended:
            self._run_step(steps[p.index])
            p.ended = self._end_reason()
            self._evaluate_within(len(steps))
            # A state that says how the run ended holds its last evaluation too.
            if not p.ended and time.monotonic() - self._saved_at > self.options.save_seconds:
                self.save()
        whole = p.index >= len(steps)
        due = p.ended or p.epoch + 1 >= self.options.epochs or (p.epoch + 1) % self.options.evaluate_epochs == 0
        if due and p.evaluated != p.step:
            self._evaluate_held_out()
        if whole:
            p.epoch, p.index, p.loss, p.weight = p.epoch + 1, 0, 0.0, 0.0
        if due:
            self.save()
        if whole:
            self.hooks.after_epoch(p.epoch)

    def _run_step(self, micro_batches: Sequence[Arrays]) -> None:
        p, started, unit = self.progress, time.monotonic(), self.options.unit
        lr = self._learning_rate()
        result = self.training.step(list(micro_batches), lr)
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            self._refuse_step(lr)
        p.step, p.index = p.step + 1, p.index + 1
        units = result.weight / self.options.values
        p.loss, p.weight, p.tokens = p.loss + result.loss, p.weight + result.weight, p.tokens + units
        seconds = max(time.monotonic() - started, 1e-9)
        self._add_seconds()
        loss, speed = result.loss / max(result.weight, 1.0), units / seconds
        self.run.append_metrics(
            step=p.step,
            epoch=p.epoch,
            loss=round(loss, 6),
            lr=lr,
            grad_norm=round(result.grad_norm, 6),
            **{f"{unit}_per_second": round(speed, 1)},
            seconds=round(p.seconds, 2),
        )
        self.hooks.on_step(StepNote(p, max(self.options.total, p.step), loss, lr, speed, self._seconds_left(), unit))
        if self._stop.signal:
            self.save()
            raise interruption(self._stop.signal)

    def _refuse_step(self, lr: float) -> None:
        if self.progress.step:
            self.save()
            kept = f"the state after step {self.progress.step} is kept in {self.run.path}"
        else:
            kept = "nothing was written"
        raise TrainingError(
            f"the loss is not finite at step {self.progress.step + 1} (learning rate {lr:.3g}); {kept}; "
            "try a lower --lr, --dtype float32, or look for damaged weights with another --model"
        )

    def _learning_rate(self) -> float:
        o, p = self.options, self.progress
        if o.max_seconds and p.step >= o.warmup:
            return o.lr * decay_factor(o.schedule, min(1.0, p.seconds / o.max_seconds))
        return learning_rate(o.schedule, o.lr, p.step, o.total, o.warmup)

    def _seconds_left(self) -> float:
        o, p = self.options, self.progress
        if o.max_seconds:
            return max(0.0, o.max_seconds - p.seconds)
        return p.seconds / max(p.step, 1) * max(0, o.total - p.step)

    def _end_reason(self) -> str:
        o, p = self.options, self.progress
        if o.max_steps and p.step >= o.max_steps:
            return "steps"
        return "time" if o.max_seconds and p.seconds >= o.max_seconds else ""

    def _evaluate_within(self, steps: int) -> None:
        """Evaluate inside an epoch of a number of steps, where that is due and was not done."""
        p, every = self.progress, self.options.evaluate_every
        if every and p.step % every == 0 and 0 < p.index < steps and not p.ended and p.evaluated != p.step:
            self._evaluate_held_out()

    def _evaluate_held_out(self) -> None:
        p = self.progress
        if not self.held_out:
            if not self.hooks.rejects(p, None):
                self.hooks.save_best()
            return
        sums = {name: evaluate_batches(self.model, part) for name, part in parts_of(self.held_out).items()}
        loss = total_loss(list(sums.values())).mean
        named = {f"val_{name}_loss": part.mean for name, part in sums.items() if name and part.weight}
        row = {"val_loss": loss, **named, **further_losses(self.model, self.further)}
        self._add_seconds()
        if not math.isfinite(loss):
            raise TrainingError(
                f"the held-out loss is not finite after step {p.step}; the state saved before is kept in "
                f"{self.run.path}; try a lower --lr or --dtype float32"
            )
        rounded = {name: round(value, 6) for name, value in row.items()}
        train_loss = p.loss / p.weight if p.weight else None
        self.run.append_metrics(step=p.step, epoch=p.epoch, train_loss=train_loss, **rounded)
        p.evaluated = p.step
        rejected = self.hooks.rejects(p, loss)
        better = p.best is None or loss < p.best
        if better and not rejected:
            p.best, p.best_step, p.waited = loss, p.step, 0
            self.hooks.save_best()
        elif not better:
            p.waited += 1
            if self.options.patience and p.waited >= self.options.patience:
                p.ended = p.ended or "patience"
        self.hooks.on_evaluation(p, loss)

    def save(self) -> None:
        """Write the state and the last arrays; a later start goes on exactly from here."""
        self._add_seconds()
        arrays: dict[str, Arrays] = {"optimizer": self.training.read_state()}
        trained = self.hooks.arrays()
        if trained:
            arrays["adapter"] = trained
        self.run.write_state(self.progress, arrays, self.hooks.fill_state)
        self.hooks.save_last()
        self._saved_at = time.monotonic()

    def _add_seconds(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self._clock_at
        self._clock_at = now


@contextmanager
def _finish_step_on_signal(stop: StopRequest) -> Iterator[None]:
    """Note the first Ctrl-C, SIGTERM or SIGHUP, so that the step is finished; a second Ctrl-C interrupts at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.signal:
            raise interruption(number)
        stop.signal = number

    with handled_signals(handle, ctrl_c=True):
        yield
