"""How DiffRhythm learns recordings: with their own styles, a given one, or one that is trained with the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save

from musiclora.audio.architecture import FlowLearning
from musiclora.audio.diffrhythm.conditions import DiffRhythmConditions, DiffRhythmForm, recording_style
from musiclora.audio.diffrhythm.sampling import FlowRequest, sample_latents
from musiclora.audio.style_files import STYLE_FILE
from musiclora.audio.task import AudioTask, load_split
from musiclora.audio.windows import Recording
from musiclora.backends.base import FlowModel, LoraSpec
from musiclora.convert.models.diffrhythm import CONDITION, DiffRhythmConfig, read_diffrhythm, write_diffrhythm
from musiclora.errors import DataError
from musiclora.models import find_model
from musiclora.progress import Reporter
from musiclora.training.adapter_files import AdapterForm
from musiclora.training.config import TrainConfig

FORM = AdapterForm(
    "recordings",
    "new.wav",
    ", with `musiclora.backends.torch.diffrhythm.DiT.from_folder` as the base",
    None,
    False,
)
_SAMPLE_STEPS = 16


@dataclass(frozen=True)
class DiffRhythmLearning:
    """DiffRhythm's part of a training task (implements `architecture.FlowLearning`).

    Attributes:
        shape: the base's sizes.
        train, held_out: recordings, split.
        style: float32 [512] that all recordings are learnt with, None for their own or a trained one.
    """

    shape: DiffRhythmConfig
    train: Sequence[Recording]
    held_out: Sequence[Recording]
    style: np.ndarray | None = None

    @property
    def form(self) -> AdapterForm:
        return FORM

    @property
    def style_source(self) -> str:
        if self.style is not None:
            return "given"
        trained = all(recording_style(r) is None for r in (*self.train, *self.held_out))
        return "trained" if trained else "recordings"

    def describe(self) -> str:
        return {
            "trained": "one style vector is trained with the adapter",
            "given": "all recordings are learnt with the style that is given",
            "recordings": "every recording is learnt with the style beside it",
        }[self.style_source]

    def digest(self) -> bytes:
        return b"" if self.style is None else self.style.tobytes()

    def batch_form(self, length: int) -> DiffRhythmForm:
        return DiffRhythmForm(length, self.shape.max_frames, self.shape.duration_embedding, self.style)

    def first_style(self) -> np.ndarray:
        return np.zeros(CONDITION, np.float32)

    def memory_lines(
        self, spec: LoraSpec, rows: int, frames: int, dtype_bytes: int, checkpointing: bool
    ) -> Sequence[str]:
        return []

    def make_pieces(self, model: FlowModel, count: int, seed: int, frames: int) -> list[np.ndarray]:
        request = FlowRequest(seed=seed, count=count, steps=_SAMPLE_STEPS, guidance=0.0)
        return sample_latents(model, request, frames, DiffRhythmConditions(self._sample_style(model)))

    def adapter_files(self, model: FlowModel) -> Mapping[str, bytes]:
        style = self._sample_style(model)
        return {STYLE_FILE: save({"style": np.asarray(style, np.float32)}, {"format": "pt"})}

    def adapter_record(self) -> Mapping[str, Any]:
        return {}

    def write_model(self, folder: Path, model: FlowModel) -> None:
        write_diffrhythm(folder, self.shape, model.read_weights(), "hf", "float32")

    def _sample_style(self, model: FlowModel) -> np.ndarray | None:
        return model.read_style() if self.style_source == "trained" else self._known_style()

    def _known_style(self) -> np.ndarray:
        """Return the given style, or the mean of the recordings' own, scaled to their mean norm."""
        if self.style is not None:
            return self.style
        styles = np.stack([np.asarray(recording_style(r), np.float32) for r in self.train])
        mean: np.ndarray = styles.mean(0)
        size = float(np.linalg.norm(mean))
        if size:
            mean = mean * np.float32(np.linalg.norm(styles, axis=1).mean() / size)
        return mean


def load_diffrhythm_task(config: TrainConfig, reporter: Reporter, backend: str) -> AudioTask:
    """Find the base, encode or read the recordings, and split them.

    Recordings are encoded into `<output-dir>-latents`, next to the run, where later starts find them.

    Raises:
        MusicLoraError: whatever does not fit, in one line.
    """
    from musiclora.audio.diffrhythm.style import given_style

    base = find_model(config.model)
    shape = read_diffrhythm(base.path).config
    style = given_style(config.style, backend) if config.style else None
    split = load_split(config, base, backend, reporter)
    if style is None and len({recording_style(r) is None for r in (*split.train, *split.held_out)}) > 1:
        raise DataError(f"{config.data_dir}: some recordings have a style and some have none; give all one, or --style")
    learning = DiffRhythmLearning(shape, split.train, split.held_out, style)
    return AudioTask(base, split, learning, backend, config.vae)


if TYPE_CHECKING:

    def _as_learning(learning: DiffRhythmLearning) -> FlowLearning:
        return learning
