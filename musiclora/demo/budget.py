"""What the demos of both families share: a training that fits into a budget, and when to begin anew."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import Any

from musiclora.progress import Reporter
from musiclora.training.config import TrainConfig
from musiclora.training.loop import Epochs, LoopOptions
from musiclora.training.plan import TrainingPlan
from musiclora.training.run_folder import CONFIG, Run
from musiclora.training.session import Session


class BudgetSession(Session):
    """A training session that shortens itself where the machine is slow, and scores held-out music a few times."""

    def __init__(self, config: TrainConfig, budget: float, reporter: Reporter, prepared: Any = None) -> None:
        super().__init__(config, reporter, prepared)
        self.budget = budget

    def _measured(self, plan: TrainingPlan, data: Epochs) -> TrainingPlan:
        return self.shortened(super()._measured(plan, data))

    def shortened(self, plan: TrainingPlan) -> TrainingPlan:
        """The plan with as many steps as fit into the budget in seconds, at least ten, and a warning if fewer."""
        if plan.seconds is None or plan.seconds <= self.budget:
            return plan
        steps, pace = max(10, int(plan.steps * self.budget / plan.seconds)), plan.seconds / plan.steps
        warning = f"this machine is slow ({pace:.1f} s a step): {steps} steps instead of {plan.steps}"
        self.config = dataclasses.replace(self.config, max_steps=steps)
        return dataclasses.replace(
            plan,
            steps=steps,
            epochs=-(-steps // plan.steps_per_epoch),
            warmup=min(plan.warmup, steps // 10),
            seconds=min(self.budget, steps * pace),
            warnings=(*plan.warnings, warning),
        )

    def _loop_options(self, plan: TrainingPlan) -> LoopOptions:
        return dataclasses.replace(super()._loop_options(plan), evaluate_epochs=max(1, plan.epochs // 8))


def is_another_demo(run: Run, config: TrainConfig) -> bool:
    """Whether the folder holds a demo that is over, or one with another backend or number of steps."""
    if not run.exists:
        return False
    earlier = tomllib.loads((run.path / CONFIG).read_text(encoding="utf-8"))["train"]
    same = (earlier.get("backend"), earlier.get("max_steps")) == (config.backend, config.max_steps)
    return bool(run.read_progress().ended) or not same
