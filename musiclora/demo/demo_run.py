"""Options, training and result that the demos of all families share."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.progress import Reporter
from musiclora.training.config import TrainConfig
from musiclora.training.limits import SessionOptions
from musiclora.training.result import TrainResult
from musiclora.training.run_folder import CONFIG, Run
from musiclora.training.session import ModelT, Session
from musiclora.training.task import TrainingTask

EVALUATIONS = 8  # of the held-out music in a demo's training


@dataclass(frozen=True)
class DemoOptions:
    """Settings of a demo; the defaults of each family take about three minutes on two cores.

    Attributes:
        steps: optimiser steps; fewer where they would not fit into `seconds`.
        rows: rows of an optimiser step.
        lr, rank, alpha, dropout: of the adapter.
        pieces: number of generated pieces, each by the base and by the adapted model.
        seconds: longest training.
        seed: of everything drawn.
    """

    steps: int
    rows: int
    lr: float
    pieces: int
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    seconds: float = 100.0
    seed: int = 7

    def train_config(self, data_dir: str, output_dir: Path, model: str, backend: str) -> TrainConfig:
        """Return the training options, without those that one family alone has."""
        return TrainConfig(
            data_dir=data_dir,
            output_dir=str(output_dir),
            model=model,
            backend=backend,
            seed=self.seed,
            lr=self.lr,
            lora_r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            batch_size=self.rows,
            grad_accum_steps=1,
            max_steps=self.steps,
            patience=1000,
        )


@dataclass(frozen=True)
class DemoResult:
    """Result of a demo.

    Attributes:
        folder: everything it wrote.
        training: the run.
        seconds: duration of the whole demo.
    """

    folder: Path
    training: TrainResult
    seconds: float

    @property
    def adapter(self) -> Path:
        """The folder of the adapter with the lowest held-out loss."""
        return self.folder / "run" / "adapter-best"

    @property
    def report(self) -> Path:
        """The report's HTML file."""
        return self.folder / "report.html"

    def last_line(self) -> str:
        """Say where everything is."""
        return f"everything is in {self.folder}, open {self.report} ({self.seconds:.0f} s in all)"

    def record_with(self, scores: dict[str, Any]) -> dict[str, Any]:
        """Return the values for --json, the family's scores among them."""
        return {
            "folder": self.folder,
            "backend": self.training.backend,
            **scores,
            "seconds": self.seconds,
            "steps": self.training.progress.step,
        }


def train_demo(
    config: TrainConfig, task: TrainingTask[ModelT], options: DemoOptions, reporter: Reporter
) -> TrainResult:
    """Train a demo's adapter within its time; resume an unfinished run, set another one aside."""
    limits = SessionOptions(longest_seconds=options.seconds, evaluations=EVALUATIONS)
    session = Session(config, task, reporter, limits)
    with session.run.locked():
        return session.train(restart=is_another_demo(session.run, config))


def is_another_demo(run: Run, config: TrainConfig) -> bool:
    """Return True where the folder holds a demo that is over, or one with another backend or number of steps."""
    if not run.exists:
        return False
    earlier = tomllib.loads((run.path / CONFIG).read_text(encoding="utf-8"))["train"]
    same = (earlier.get("backend"), earlier.get("max_steps")) == (config.backend, config.max_steps)
    return bool(run.read_progress().ended) or not same
