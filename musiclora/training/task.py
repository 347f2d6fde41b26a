"""What a training run needs to know of its model's family: the music, its scores, and what goes with an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from musiclora.backends.base import Arrays, LossSum, Model
from musiclora.evaluation.scores import Gain
from musiclora.models import BaseModel
from musiclora.training.adapter_files import AdapterForm
from musiclora.training.config import TrainConfig


@dataclass(frozen=True)
class PlanDefaults:
    """How a family's runs are planned where nothing is given.

    The steps are enough updates for the learning rate to act and for B to leave zero; early stopping ends earlier where
    fewer do.

    Attributes:
        unit: what length, data and speed are counted in.
        values: scored targets in one unit: 1 for a token, the latent's channels for a frame.
        a_step: least and most units of one optimiser step.
        in_pass: units of one forward pass.
        steps: optimiser steps of a run, within the epochs below.
        epochs: least and most epochs.
        loss: what the loss is measured in.
    """

    unit: str = "tokens"
    values: int = 1
    a_step: tuple[int, int] = (1024, 8192)
    in_pass: int = 4096
    steps: int = 200
    epochs: tuple[int, int] = (4, 40)
    loss: str = "nats a token"


@dataclass(frozen=True)
class Scores:
    """Held-out scores of the base and of what was trained, and their difference."""

    before: Any
    after: Any
    gain: Gain


class Epochs(Protocol):
    """Training data: batches by epoch, the same for the same number."""

    def batches(self, epoch: int) -> Sequence[Arrays]: ...


class TrainingTask(Protocol):
    """Music of one family, split into what is trained on and what is held out, and the base that learns it.

    Attributes:
        family: its name.
        base: the base model.
    """

    @property
    def family(self) -> str: ...

    @property
    def base(self) -> BaseModel: ...

    @property
    def pace(self) -> PlanDefaults: ...

    @property
    def form(self) -> AdapterForm: ...

    def fingerprint(self) -> str:
        """Hash of all data and of the split, to tell whether a resumed run still has the same."""

    def counts(self) -> tuple[int, int]:
        """Songs to train on, and held out."""

    def lines(self) -> Sequence[str]:
        """What the user should know about the data, beginning with how much there is."""

    def row_length(self, config: TrainConfig) -> int:
        """Longest row in units: --max-seq-len, at most what the model can hold."""

    def widest(self, config: TrainConfig) -> tuple[int, int]:
        """Units of an epoch, and of its longest row."""

    def epochs(self, config: TrainConfig, rows: int) -> Epochs:
        """Training batches of so many rows."""

    def held_out(self, config: TrainConfig, rows: int) -> Sequence[Arrays]:
        """Batches of all held-out songs; empty without any."""

    def song_batches(self, config: TrainConfig) -> Sequence[Sequence[Arrays]]:
        """Batches of each held-out song on its own, with the same targets as held_out."""

    def dtype(self, config: TrainConfig, device: str) -> str:
        """Dtype of the frozen base on a kind of device (metal, cuda, mps, cpu)."""

    def checkpointing(self, config: TrainConfig) -> bool:
        """Whether activations are recomputed in the backward pass."""

    def check_base(self, model: Any, loss: float, config: TrainConfig, load: Callable[[Path], Any]) -> str | None:
        """A warning where the base does no better on held-out songs than a guess.

        Args:
            model: the base.
            loss: its loss on all held-out songs.
            config: the options.
            load: loads a model folder as the base was.

        Raises:
            ConfigError: so little better that the wrong thing would be trained.
        """

    def begin(self, model: Any, saved: Arrays | None) -> None:
        """Give the model what is trained beside its adapter, as the state folder has it; before its training starts."""

    def arrays(self, model: Any) -> Arrays:
        """Everything trained beside the base, under the names of the state folder."""

    def restore(self, model: Any, arrays: Arrays) -> None:
        """Put the adapter's part of the state folder's arrays into the model."""

    def restore_best(self, model: Any, folder: Path) -> Arrays:
        """Put an adapter folder's content into the model.

        Returns:
            The adapter's arrays.
        """

    def scores(self, before: Sequence[LossSum], after: Sequence[LossSum]) -> Scores:
        """Scores of sums, one a held-out song."""

    def fingerprints(self) -> dict[str, str]:
        """Of the base, by part, as an adapter records them."""

    def files(self, model: Any) -> Mapping[str, bytes]:
        """What lies in an adapter folder beside the arrays."""

    def record(self) -> dict[str, Any]:
        """What musiclora.json says of this family."""

    def save_model(self, path: Path, model: Model) -> None:
        """Write the model's weights as a model folder, replacing an older one."""

    def facts(self, config: TrainConfig) -> dict[str, Any]:
        """What training_meta.json says of this family."""

    def sample(self, model: Any, folder: Path, name: str, seed: int) -> None:
        """Write a sample while training, as `<folder>/<name>` with the family's ending."""
