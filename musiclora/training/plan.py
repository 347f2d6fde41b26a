"""Training plan: batch, accumulation, epochs and warm-up from the data, time and memory from a probe."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from musiclora.backends.base import Arrays, Training
from musiclora.progress import format_duration
from musiclora.training.config import TrainConfig
from musiclora.training.task import PlanDefaults


@dataclass(frozen=True)
class TrainingPlan:
    """Sizes of a run before it starts.

    Attributes:
        batch_size: rows in one forward pass.
        accumulate: forward passes in one optimiser step.
        epochs: passes over the data.
        steps_per_epoch, steps: optimiser steps of an epoch and of the run.
        warmup: the first steps, in which the learning rate rises.
        units_per_epoch: tokens, or frames.
        seconds: estimate from the probe for all epochs, None without one.
        memory: peak bytes after the probe, None without one.
        warnings: remarks for the user.
        unit: counts the data: `tokens` or `frames`.
        notes: further lines on the data or the model, such as the number of trained parameters.
    """

    batch_size: int
    accumulate: int
    epochs: int
    steps_per_epoch: int
    steps: int
    warmup: int
    units_per_epoch: int
    seconds: float | None = None
    memory: int | None = None
    warnings: tuple[str, ...] = ()
    unit: str = "tokens"
    notes: tuple[str, ...] = ()

    @property
    def whole_epochs(self) -> int:
        """Number of epochs that are trained to their end."""
        return self.steps // self.steps_per_epoch

    def length(self) -> str:
        """Format '2 epochs of 14 steps = 28 steps', or '20 steps, 1.4 epochs of 14 steps' where it ends inside one."""
        steps = f"{self.steps} {'step' if self.steps == 1 else 'steps'}"
        each = f"of {self.steps_per_epoch} {'step' if self.steps_per_epoch == 1 else 'steps'}"
        if self.steps == self.epochs * self.steps_per_epoch:
            return f"{self.epochs} {'epoch' if self.epochs == 1 else 'epochs'} {each} = {steps}"
        return f"{steps}, {self.steps / self.steps_per_epoch:.1f} epochs {each}"

    def lines(self) -> list[str]:
        """Describe the plan in lines."""
        text = [
            f"plan: {self.length()}, warm-up {self.warmup}; "
            f"{self.batch_size} row{'' if self.batch_size == 1 else 's'} x {self.accumulate} accumulated a step; "
            f"{self.units_per_epoch:,} {self.unit} an epoch"
        ]
        text += [f"      {note}" for note in self.notes]
        if self.seconds is not None and self.memory is not None:
            text.append(
                f"      at most {format_duration(self.seconds)} for the steps (by a probe), evaluations and samples "
                f"not counted; memory {self.memory / 2**30:.1f} GiB so far"
            )
        return text + [f"      warning: {w}" for w in self.warnings]


def batch_shape(
    config: TrainConfig, units_per_epoch: int, row_length: int, defaults: PlanDefaults | None = None
) -> tuple[int, int]:
    """Choose rows in a forward pass and passes in a step from the data, where they are not given.

    About an eighth of an epoch goes into one step, for tokens between 1,024 and 8,192; one pass holds about 4,096
    tokens, which is where a laptop's arithmetic units are busy and its memory is not yet full.
    """
    defaults = defaults or PlanDefaults()
    low, high = defaults.step_units
    units = min(high, max(low, units_per_epoch // 8))
    rows = max(1, round(units / max(row_length, 1)))
    if config.batch_size and config.grad_accum_steps:
        return config.batch_size, config.grad_accum_steps
    if config.batch_size:
        return config.batch_size, max(1, rows // config.batch_size)
    if config.grad_accum_steps:
        return max(1, rows // config.grad_accum_steps), config.grad_accum_steps
    pass_rows = max(1, min(rows, defaults.pass_units // max(row_length, 1)))
    return pass_rows, math.ceil(rows / pass_rows)


def make_plan(
    config: TrainConfig,
    batch_size: int,
    accumulate: int,
    batches: int,
    units_per_epoch: int,
    defaults: PlanDefaults | None = None,
) -> TrainingPlan:
    """Choose epochs, steps and warm-up for a number of batches an epoch."""
    defaults = defaults or PlanDefaults()
    per_epoch = max(1, math.ceil(batches / accumulate))
    low, high = defaults.epochs
    epochs = config.epochs or min(high, max(low, math.ceil(defaults.steps / per_epoch)))
    if config.max_steps and not config.epochs:
        epochs = math.ceil(config.max_steps / per_epoch)
    steps = min(epochs * per_epoch, config.max_steps or epochs * per_epoch)
    warmup = min(100, steps // 10) if config.warmup_steps is None else config.warmup_steps
    warnings = []
    if warmup > max(steps // 10, 1):
        warnings.append(f"--warmup-steps {warmup} is more than a tenth of the {steps} real steps")
    if steps < 30:
        warnings.append(
            f"only {steps} optimiser step{'' if steps == 1 else 's'}: the model will hardly change; give more "
            "--epochs, or a smaller --grad-accum-steps or --batch-size"
        )
    if config.sample_every > steps // per_epoch:
        warnings.append(
            f"--sample-every {config.sample_every}: no sample is written, the run ends after "
            f"{steps / per_epoch:.3g} epochs, and a sample is written after whole ones only"
        )
    return TrainingPlan(
        batch_size,
        accumulate,
        epochs,
        per_epoch,
        steps,
        warmup,
        units_per_epoch,
        warnings=tuple(warnings),
        unit=defaults.unit,
    )


def probe_seconds(training: Training, micro_batches: Sequence[Arrays]) -> float:
    """Measure the seconds of one optimiser step and leave the training untouched.

    The second of two steps is measured, since the first one compiles. Learning rate 0 leaves the weights as they are,
    and the optimiser's state is put back.
    """
    before = {name: array.copy() for name, array in training.read_state().items()}
    training.step(micro_batches, 0.0)
    started = time.perf_counter()
    training.step(micro_batches, 0.0)
    seconds = time.perf_counter() - started
    training.write_state(before)
    return seconds
