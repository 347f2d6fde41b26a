"""Options, training and result that the demos of all families share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.convert.errors import OutputError
from musiclora.convert.files.json_file import read_json
from musiclora.convert.files.outputs import check_folder
from musiclora.errors import MusicLoraError, join_problems
from musiclora.progress import Reporter
from musiclora.training.config import TrainConfig, read_toml
from musiclora.training.limits import ASKED_STEPS, SessionOptions
from musiclora.training.result import TrainResult
from musiclora.training.run_folder import CONFIG, META, Run
from musiclora.training.session import ModelT, Session
from musiclora.training.task import TrainingTask

DATA_RECORD = "demo-data.json"  # how the audio demo's renders were made
# Names that the demos write into their folder.
_DEMO_NAMES = (
    "cut",
    DATA_RECORD,
    "held-out",
    "held-out-whole",
    "latents",
    "music",
    "recordings",
    "report.html",
    "run",
)


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
        evaluations: of the held-out music in the training.
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
    evaluations: int = 8

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


def _is_demo_name(name: str) -> bool:
    """Return True for what a demo writes: its parts, hidden files, and runs that were set aside."""
    return name in _DEMO_NAMES or name.startswith((".", "run."))


def check_demo_folder(folder: Path) -> None:
    """Refuse a folder that holds anything else than what a demo wrote.

    Raises:
        OutputError: it is such a folder.
        ConfigError: it is a file or a dangling link, or cannot be written.
    """
    check_folder(folder)
    foreign = sorted(p.name for p in folder.iterdir() if not _is_demo_name(p.name)) if folder.is_dir() else []
    if foreign:
        raise OutputError(
            f"--output-dir {folder}: is not empty and holds no demo ({join_problems(foreign, 3)}); choose a new folder"
        )


def train_demo(
    config: TrainConfig, task: TrainingTask[ModelT], options: DemoOptions, reporter: Reporter
) -> TrainResult:
    """Train a demo's adapter within its time; resume an unfinished run of the same data, and set another one aside."""
    run = Run(Path(config.output_dir))
    with run.locked():
        run.recover()
        kept = unfinished_steps(run, config, task.hash_data())
        if kept is not None:  # as many as fitted the time when it was begun, so that the schedule stays
            config = dataclasses.replace(config, max_steps=kept)
        limits = SessionOptions(
            longest_seconds=0.0 if kept else options.seconds,
            evaluations=options.evaluations,
            evaluate_steps=max(1, options.steps // options.evaluations),
        )
        return Session(config, task, reporter, limits, run).train(restart=run.exists and kept is None)


def unfinished_steps(run: Run, config: TrainConfig, data: str) -> int | None:
    """Return the planned steps of an unfinished run of this very demo; None for another one, or a damaged record.

    Args:
        run: the folder.
        config: the options that are asked for.
        data: hash of the songs or recordings.
    """
    if not run.exists:
        return None
    try:
        earlier = read_toml(run.path / CONFIG)["train"]
        steps = earlier["max_steps"]
        record = read_json(run.path / META)
        asked = record.get(ASKED_STEPS, steps)
        same = (earlier["backend"], asked, record["data"]) == (config.backend, config.max_steps, data)
        return int(steps) if same and not run.read_progress().ended else None
    except (ValueError, KeyError, TypeError, MusicLoraError):
        return None
