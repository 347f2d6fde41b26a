"""Training task of a model family: protocols for its data, its scores and its files, and the records they use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from musiclora.backends.base import Arrays, LossSum, Model
from musiclora.evaluation.copy_figures import CopyFigures
from musiclora.evaluation.sample_findings import SampleFindings
from musiclora.evaluation.scores import Gain, HeldOutScore
from musiclora.evaluation.verdict import BaseCheck
from musiclora.models import BaseModel
from musiclora.training.adapter_files import AdapterForm
from musiclora.training.config import TrainConfig

TaskModel = TypeVar("TaskModel", bound=Model, contravariant=True)  # of the family


@dataclass(frozen=True)
class PlanDefaults:
    """Default sizes of a family's runs.

    The number of steps lets the learning rate act and B leave zero; early stopping ends a run that needs fewer.

    Attributes:
        unit: counts length, data and speed: `tokens` or `frames`.
        values: scored targets in one unit: 1 for a token, the latent's channels for a frame.
        step_units: least and most units of one optimiser step.
        pass_units: units of one forward pass.
        steps: optimiser steps of a run, within the epochs below.
        epochs: least and most epochs.
        loss: unit of the loss.
    """

    unit: str = "tokens"
    values: int = 1
    step_units: tuple[int, int] = (1024, 8192)
    pass_units: int = 4096
    steps: int = 200
    epochs: tuple[int, int] = (4, 40)
    loss: str = "nats a token"

    @property
    def pieces(self) -> str:
        """`songs` or `recordings`."""
        return "recordings" if self.unit == "frames" else "songs"


@dataclass(frozen=True)
class Scores:
    """Held-out scores of the base and of the trained model, and their difference."""

    before: HeldOutScore
    after: HeldOutScore
    gain: Gain


class Epochs(Protocol):
    """Training data as batches by epoch; the same number gives the same batches."""

    def batches(self, epoch: int) -> Sequence[Arrays]: ...


class TaskData(Protocol):
    """Music of one family, split into a training and a held-out part.

    Attributes:
        plan_defaults: sizes of a run that are not given.
    """

    @property
    def plan_defaults(self) -> PlanDefaults: ...

    def hash_data(self) -> str:
        """Hash all data and the split, so that a resumed run notices a change."""

    def count_songs(self) -> tuple[int, int]:
        """Count the songs, or recordings, to train on and the held-out ones."""

    def describe_data(self) -> Sequence[str]:
        """Describe the data in lines, the first of which says how much there is."""

    def complete_options(self, config: TrainConfig) -> TrainConfig:
        """Fill in the family's own options that were not given, as config.toml records them."""

    def describe_plan(self, config: TrainConfig) -> Sequence[str]:
        """Describe in lines what the family adds to the plan of a run."""

    def row_length(self, config: TrainConfig) -> int:
        """Return the longest row in units: --max-seq-len, at most the model's limit."""

    def measure_epoch(self, config: TrainConfig) -> tuple[int, int]:
        """Count the units of an epoch and of its longest row."""

    def training_epochs(self, config: TrainConfig, rows: int) -> Epochs:
        """Lay out training batches of `rows` rows."""

    def held_out_batches(self, config: TrainConfig, rows: int) -> Sequence[Arrays]:
        """Lay out batches of all held-out songs; empty without any."""

    def further_batches(self, config: TrainConfig, rows: int) -> Mapping[str, Sequence[Arrays]]:
        """Lay out batches of held-out songs under other conditions, by name; their losses are reported only."""

    def song_batches(self, config: TrainConfig) -> Sequence[Sequence[Arrays]]:
        """Lay out batches of each held-out song on its own, with the same targets as held_out_batches."""

    def judging_batches(self, config: TrainConfig) -> Sequence[Sequence[Arrays]]:
        """Lay out batches of training songs, by song, that the base is judged on before training; bounded in size."""

    def hash_songs(self) -> Sequence[str]:
        """Hash each training song, so that `evaluate` can tell that it was trained on."""


class TaskScoring(Protocol[TaskModel]):
    """Base model of a task: how it computes and how it is scored.

    Attributes:
        family: the family's name.
        base: the base model.
    """

    @property
    def family(self) -> str: ...

    @property
    def base(self) -> BaseModel: ...

    def choose_dtype(self, config: TrainConfig, device: str) -> str:
        """Choose the dtype of the frozen base on a kind of device (metal, cuda, mps, cpu)."""

    def needs_checkpointing(self, config: TrainConfig) -> bool:
        """Decide if activations are recomputed in the backward pass."""

    def check_base(
        self, model: TaskModel, loss: float, config: TrainConfig, load: Callable[[Path], Model]
    ) -> BaseCheck:
        """Compare the base's loss with a guess's, and say where it is no better.

        Args:
            model: the base.
            loss: its loss on the held-out songs and those of `judging_batches`.
            config: the options.
            load: loads a model folder with the base's backend and dtype.

        Raises:
            ConfigError: so little better that the wrong thing would be trained.
        """

    def compare_losses(self, before: Sequence[LossSum], after: Sequence[LossSum]) -> Scores:
        """Score summed losses, one a held-out song, of the base and of the trained model."""

    def write_sample(self, model: TaskModel, folder: Path, name: str, seed: int) -> None:
        """Write a sample during training, as `<folder>/<name>` with the family's ending."""

    def measure_samples(self, model: TaskModel, count: int, seed: int) -> CopyFigures | None:
        """Generate samples and measure what they copy of the training songs; None where that cannot be measured."""

    def judge_samples(self, model: TaskModel, count: int, seed: int) -> SampleFindings:
        """Generate samples of the trained model, and of the base where style is measured, and judge them."""

    def copied_spans(self, sample: Path) -> Sequence[tuple[float, float]]:
        """Find the passages of a sample file that copy training songs: first and last onset, in quarter notes."""


class TaskFiles(Protocol[TaskModel]):
    """Trained arrays of a task and the files that hold them.

    Attributes:
        form: words and PEFT settings of the family's adapter folders.
    """

    @property
    def form(self) -> AdapterForm: ...

    def begin_training(self, model: TaskModel, saved: Arrays | None) -> None:
        """Give the model its trained arrays besides the adapter, before training starts.

        Args:
            model: the base with its adapter.
            saved: arrays of the state folder, None for a new run.
        """

    def trained_arrays(self, model: TaskModel) -> Arrays:
        """Read everything that is trained, under the names of the state folder."""

    def restore_state(self, model: TaskModel, arrays: Arrays) -> None:
        """Write the adapter's part of the state folder's arrays into the model."""

    def restore_adapter(self, model: TaskModel, folder: Path) -> Arrays:
        """Write an adapter folder's content into the model.

        Returns:
            The adapter's arrays.
        """

    def base_fingerprints(self) -> dict[str, str]:
        """Compute the base's fingerprints by part, as an adapter records them."""

    def extra_files(self, model: TaskModel) -> Mapping[str, bytes]:
        """Return the files of an adapter folder besides the arrays, by name."""

    def adapter_record(self) -> dict[str, Any]:
        """Return the family's own entries of musiclora.json."""

    def card_lines(self) -> Sequence[str]:
        """Describe the training data for the adapter's card; no paths and no song names."""

    def run_record(self, config: TrainConfig) -> dict[str, Any]:
        """Return the family's own entries of training_meta.json."""

    def save_model(self, path: Path, model: TaskModel) -> None:
        """Write the model's weights as a model folder, replacing an older one."""


class TrainingTask(TaskData, TaskScoring[TaskModel], TaskFiles[TaskModel], Protocol[TaskModel]):
    """Everything that a training run asks of its model's family."""
