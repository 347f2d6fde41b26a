"""Limits of a run: time budget, early stopping and evaluation interval, applied to a measured plan."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from musiclora.backends.base import OptimSpec
from musiclora.training.config import TrainConfig
from musiclora.training.fold_summary import FoldSummary
from musiclora.training.loop import LoopOptions
from musiclora.training.plan import TrainingPlan
from musiclora.training.run_folder import RunProgress
from musiclora.training.task import PlanDefaults

ENDLESS_EPOCHS = 1_000_000  # for runs that the clock ends
LEAST_STEPS = 10  # of a run that is shortened
ASKED_STEPS = "max_steps_asked"  # key of training_meta.json: --max-steps before the run was shortened


@dataclass(frozen=True)
class SessionOptions:
    """Time limits of a run, and how often it is evaluated.

    Attributes:
        longest_seconds: take fewer steps where the planned ones would last longer; 0 keeps the plan.
        budget_seconds: train this long over all starts, with a schedule that follows the clock; 0 follows the plan.
        evaluations: evaluate about this often in the whole run; 0 evaluates after every epoch.
        evaluate_steps: optimiser steps between evaluations within an epoch; 0 evaluates at its end only.
        patience: default of --patience; None is the family's default, 0 never stops early.
        stop_step: optimiser steps after which the run stops, with the schedule of the whole plan; 0 no limit.
        folds: cross-validation that chose these steps, which the run's records state.
    """

    longest_seconds: float = 0.0
    budget_seconds: float = 0.0
    evaluations: int = 0
    evaluate_steps: int = 0
    patience: int | None = None
    stop_step: int = 0
    folds: FoldSummary | None = None

    def notes(self) -> list[str]:
        """Describe in lines what the limits add to the plan."""
        return [f"stops after step {self.stop_step}, which the folds chose"] if self.stop_step else []

    def records(self) -> dict[str, Any]:
        """Return entries of the run's and of the adapter's record."""
        return {"folds": self.folds.as_json()} if self.folds else {}

    def least_steps(self, config: TrainConfig) -> int:
        """Return the steps that end the run, the smaller of --max-steps and stop_step; 0 without either."""
        return min((steps for steps in (config.max_steps or 0, self.stop_step) if steps), default=0)


def choose_patience(config: TrainConfig, options: SessionOptions) -> int:
    """Return the evaluations without a better loss that end a run; 0 never ends it."""
    defaults = (config.patience, options.patience, config.training_defaults.patience)
    return next(patience for patience in defaults if patience is not None)


def renew_patience(progress: RunProgress, patience: int, more_epochs: bool) -> bool:
    """Give a run that lost its patience a new count, where more epochs or more patience are asked for.

    Args:
        progress: of the run; its count is set to 0 where it may go on.
        patience: evaluations without a better loss that end the run now; 0 never ends it.
        more_epochs: more epochs are asked for than before.

    Returns:
        True where the run may go on.
    """
    more = more_epochs or not patience or patience > progress.waited
    progress.waited = 0 if more else progress.waited
    return more


def is_used_up(progress: RunProgress, plan: TrainingPlan, config: TrainConfig, options: SessionOptions) -> bool:
    """Return True where the epochs, the steps or the seconds that are asked for are used up."""
    steps, seconds = options.least_steps(config), options.budget_seconds
    if steps and progress.step >= steps:
        return True
    return bool(seconds and progress.seconds >= seconds) or progress.epoch >= plan.epochs


def fit_plan(plan: TrainingPlan, options: SessionOptions) -> TrainingPlan:
    """Fit a plan with measured seconds into the limits.

    With a budget the steps are those that the budget allows. Where the plan is too long, it gets as many steps as fit,
    at least LEAST_STEPS, and a warning.
    """
    if not plan.seconds:
        return plan
    if budget := options.budget_seconds:
        steps = max(1, int(plan.steps * budget / plan.seconds))
        return _change_steps(plan, steps, warmup=min(100, steps // 10), seconds=budget)
    longest, step_seconds = options.longest_seconds, plan.seconds / plan.steps
    if not longest or plan.seconds <= longest:
        return plan
    steps = max(LEAST_STEPS, int(plan.steps * longest / plan.seconds))
    warning = f"this machine is slow ({step_seconds:.1f} s a step): {steps} steps instead of {plan.steps}"
    shorter = _change_steps(plan, steps, min(plan.warmup, steps // 10), min(longest, steps * step_seconds))
    return dataclasses.replace(shorter, warnings=(*plan.warnings, warning))


def _change_steps(plan: TrainingPlan, steps: int, warmup: int, seconds: float) -> TrainingPlan:
    epochs = math.ceil(steps / plan.steps_per_epoch)
    return dataclasses.replace(plan, steps=steps, epochs=epochs, warmup=warmup, seconds=seconds)


def make_loop_options(
    config: TrainConfig, options: SessionOptions, plan: TrainingPlan, defaults: PlanDefaults
) -> LoopOptions:
    """Collect the options of the training loop from the options of the run, its limits and its plan."""
    return LoopOptions(
        epochs=ENDLESS_EPOCHS if options.budget_seconds else plan.epochs,
        accumulate=plan.accumulate,
        lr=config.lr if config.lr is not None else config.training_defaults.learning_rate,
        schedule=config.lr_schedule,
        warmup=plan.warmup,
        total=plan.steps,
        patience=choose_patience(config, options),
        max_steps=options.least_steps(config),
        max_seconds=options.budget_seconds,
        evaluate_every=options.evaluate_steps if plan.steps_per_epoch > options.evaluate_steps else 0,
        evaluate_epochs=max(1, plan.epochs // options.evaluations) if options.evaluations else 1,
        unit=defaults.unit,
        values=defaults.values,
    )


def make_optim_spec(config: TrainConfig, checkpointing: bool) -> OptimSpec:
    """Collect the optimiser's settings from the options of the run.

    Args:
        config: the options.
        checkpointing: recompute activations in the backward pass.
    """
    return OptimSpec(
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        checkpointing=checkpointing,
        lora_plus_ratio=config.lora_plus_ratio or 1.0,
    )
