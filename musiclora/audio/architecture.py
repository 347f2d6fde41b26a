"""What the shared audio code asks of one architecture: sizes, codec, conditions, and how it learns recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from musiclora.audio.windows import BatchForm
from musiclora.backends.base import Arrays, FlowModel, LoraSpec, Model
from musiclora.errors import ConfigError
from musiclora.evaluation.verdict import BaseCheck
from musiclora.families import resolve, spec_of_folder
from musiclora.models import BaseModel
from musiclora.progress import Reporter
from musiclora.training.adapter_files import AdapterForm


@dataclass(frozen=True)
class FlowShape:
    """Sizes of a flow model, as its folder states them.

    Attributes:
        channels: of a latent frame.
        max_frames: longest piece.
        condition_width: values of a style vector, or of one row of a condition.
    """

    channels: int
    max_frames: int
    condition_width: int


@dataclass(frozen=True)
class EncodingModel:
    """What encodes recordings.

    Attributes:
        base: the model.
        codec: folder or file of its codec.
        fingerprint: of the codec.
        backend: name of the backend.
    """

    base: BaseModel
    codec: Path
    fingerprint: str
    backend: str


class FlowArchitecture(Protocol):
    """One architecture of the audio family.

    Attributes:
        frame_rate: latent frames a second of the codec that it was made for.
    """

    @property
    def frame_rate(self) -> float: ...

    def read_shape(self, folder: Path) -> FlowShape:
        """Read a model folder's sizes.

        Raises:
            ConvertError: it holds no readable model of this architecture.
        """

    def find_codec(self, folder: Path) -> Path | None:
        """Find the codec that belongs to a model folder; None where there is none."""

    def encode_folder(
        self, folder: Path, cache: Path, model: EncodingModel, caption: str | None, reporter: Reporter
    ) -> Sequence[str]:
        """Encode the recordings of a folder, with their conditions, into a latents folder.

        Args:
            folder: recordings.
            cache: the latents folder.
            model: base, codec and backend.
            caption: describes all recordings; None for what is beside each.
            reporter: receives the progress.

        Returns:
            Notes for the user.

        Raises:
            MusicLoraError: the codec or the recordings do not fit. Latents encoded so far are kept.
        """

    def check_conditions(self, conditions: Arrays, frames: int, width: int, where: str) -> None:
        """Check the arrays of a recording in a latents folder besides its latents.

        Args:
            conditions: the arrays.
            frames: length of its latents.
            width: `FlowShape.condition_width`.
            where: beginning of the message.

        Raises:
            DataError: they are another architecture's, or damaged.
        """

    def check_items(self, items: Sequence[Mapping[str, Any]], base: BaseModel, folder: Path) -> None:
        """Compare what the index entries of a latents folder record of their making with a model.

        Raises:
            DataError: conditions of another model.
        """

    def probe(self, folder: Path) -> Arrays:
        """Draw a small flow batch to see whether an adapter changes what the model computes."""

    def scoring_form(self, folder: Path, length: int) -> BatchForm:
        """Build the form of the batches that recordings are scored with."""

    def check_base(
        self, base: BaseModel, loss: float, batches: Sequence[Arrays], load: Callable[[Path], Model]
    ) -> BaseCheck:
        """Compare a base's loss on recordings with a guess's, and say what may be wrong where it is no better.

        Args:
            base: the model.
            loss: its loss.
            batches: of recordings.
            load: loads a model folder.
        """


class FlowLearning(Protocol):
    """How one architecture learns the recordings of a run.

    Attributes:
        form: texts and PEFT settings of the adapter folders.
        style_source: `trained`, `given` (an option) or `recordings`.
    """

    @property
    def form(self) -> AdapterForm: ...

    @property
    def style_source(self) -> str: ...

    def describe(self) -> str:
        """Say in a line what the recordings are learnt with."""

    def digest(self) -> bytes:
        """Return what the hash of the data must contain besides the recordings."""

    def batch_form(self, length: int) -> BatchForm:
        """Build the form of the training batches."""

    def first_style(self) -> np.ndarray:
        """Draw the style or condition that a run begins to train."""

    def memory_lines(
        self, spec: LoraSpec, rows: int, frames: int, dtype_bytes: int, checkpointing: bool
    ) -> Sequence[str]:
        """Say what a training step needs, where it can be counted.

        Args:
            spec: settings of the adapter.
            rows: windows of a pass.
            frames: of the longest window.
            dtype_bytes: of a value of the frozen base.
            checkpointing: activations are recomputed.
        """

    def make_pieces(self, model: FlowModel, count: int, seed: int, frames: int) -> list[np.ndarray]:
        """Sample pieces as the trained model is meant to be used, each float32 [T, C]."""

    def adapter_files(self, model: FlowModel) -> Mapping[str, bytes]:
        """Return the files of an adapter folder besides the arrays, by name."""

    def adapter_record(self) -> Mapping[str, Any]:
        """Return the architecture's own entries of musiclora.json."""

    def write_model(self, folder: Path, model: FlowModel) -> None:
        """Write the model's weights into an empty folder.

        Raises:
            ConfigError: the architecture cannot be trained as a whole.
        """


def architecture_of(folder: Path) -> FlowArchitecture:
    """Find the architecture of an audio model's folder.

    Raises:
        ConfigError: the model is of another family.
    """
    spec = spec_of_folder(folder)
    if spec.flow is None:
        raise ConfigError(f"{folder}: is no audio model; it learns {spec.data}")
    return cast(FlowArchitecture, resolve(spec.flow))
