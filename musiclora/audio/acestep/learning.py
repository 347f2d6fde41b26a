"""How ACE-Step learns recordings: with conditions computed once, or with one that is trained with the adapter."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save

from musiclora.audio.acestep.contexts import read_silence
from musiclora.audio.acestep.form import AceStepForm, recording_condition
from musiclora.audio.acestep.memory import plan_memory
from musiclora.audio.acestep.times import Objective, objective_of
from musiclora.audio.architecture import FlowLearning
from musiclora.audio.split import load_split
from musiclora.audio.style_files import ORIGIN, STYLE, STYLE_FILE
from musiclora.audio.task import AudioTask
from musiclora.audio.windows import Recording
from musiclora.backends.base import FlowModel, LoraSpec
from musiclora.convert.models.acestep import read_acestep
from musiclora.convert.models.acestep_config import AceStepConfig
from musiclora.convert.models.acestep_names import NULL_CONDITION
from musiclora.errors import ConfigError, DataError
from musiclora.models import BaseModel, find_model
from musiclora.progress import Reporter
from musiclora.training.adapter_files import AdapterForm
from musiclora.training.config import TrainConfig

FORM = AdapterForm(
    "recordings",
    "new.wav",
    " into the transformer (`decoder`) of the original's code, and `load_lora_weights` into diffusers' AceStepPipeline",
    "FEATURE_EXTRACTION",
    False,
)
# A trained condition: rows around the null condition. Equal rows would have equal gradients and stay equal.
_TRAINED_ROWS, _SPREAD = 16, 0.02


@dataclass(frozen=True)
class AceStepLearning:
    """ACE-Step's part of a training task (implements `architecture.FlowLearning`).

    Attributes:
        base: the model folder.
        config: the base's sizes.
        train, held_out: recordings, split.
        caption: option that described the recordings; None where each has its own.
    """

    base: BaseModel
    config: AceStepConfig
    train: Sequence[Recording]
    held_out: Sequence[Recording]
    caption: str | None = None

    @property
    def form(self) -> AdapterForm:
        if self.style_source == "trained" or self.caption:
            return FORM
        return dataclasses.replace(FORM, output=f'{FORM.output} --caption "WORDS"')

    @property
    def style_source(self) -> str:
        trained = all(recording_condition(r) is None for r in (*self.train, *self.held_out))
        return "trained" if trained else "recordings"

    @property
    def objective(self) -> Objective:
        """Training times and dropping of conditions."""
        return objective_of(self.config)

    def describe(self) -> str:
        return {
            "trained": f"one condition of {_TRAINED_ROWS} rows is trained with the adapter, in place of words",
            "recordings": "every recording is learnt with its own caption and lyrics",
        }[self.style_source]

    def digest(self) -> bytes:
        digest = hashlib.sha256()
        for recording in (*self.train, *self.held_out):
            condition = recording_condition(recording)
            digest.update(b"-" if condition is None else np.ascontiguousarray(condition).tobytes())
        return digest.digest()

    def batch_form(self, length: int) -> AceStepForm:
        return AceStepForm(length, read_silence(self.base.path), self.objective)

    def first_style(self) -> np.ndarray:
        """Draw a condition near the null condition, float32 [16, D], the same for every run."""
        row = self._null_condition()[None]
        spread = _SPREAD * float(np.sqrt(np.square(row).mean()) or 1.0)
        noise = np.random.default_rng(0).standard_normal((_TRAINED_ROWS, row.shape[1]), np.float32)
        first: np.ndarray = row + np.float32(spread) * noise
        return first

    def memory_lines(
        self, spec: LoraSpec, rows: int, frames: int, dtype_bytes: int, checkpointing: bool
    ) -> Sequence[str]:
        bits = read_acestep(self.base.path).bits
        plan = plan_memory(
            self.config,
            spec,
            rows=rows,
            frames=frames,
            dtype_bytes=dtype_bytes,
            checkpointing=checkpointing,
            bits=bits,
        )
        return [plan.line()]

    def _null_condition(self) -> np.ndarray:
        """Read the base's null condition, float32 [D]."""
        ((_, null),) = read_acestep(self.base.path).tensors([NULL_CONDITION])
        return np.array(null, np.float32).reshape(-1)

    def make_pieces(self, model: FlowModel, count: int, seed: int, frames: int) -> list[np.ndarray]:
        from musiclora.audio.acestep.sampling import sample_pieces

        return sample_pieces(model, self.base.path, self._sample_condition(model), count, seed, frames)

    def adapter_files(self, model: FlowModel) -> Mapping[str, bytes]:
        style = model.read_style() if self.style_source == "trained" else None
        if style is None:
            return {}
        return {STYLE_FILE: save({STYLE: style, ORIGIN: self._null_condition()}, {"format": "pt"})}

    def adapter_record(self) -> Mapping[str, Any]:
        return {"kind": self.config.model_version, **({"caption": self.caption} if self.caption else {})}

    def write_model(self, folder: Path, model: FlowModel) -> None:
        raise ConfigError("ACE-Step is trained by adapters only")

    def _sample_condition(self, model: FlowModel) -> np.ndarray:
        """Return the condition of samples: the trained one, or that of the first recording by name."""
        if self.style_source == "trained":
            style = model.read_style()
            assert style is not None, "a training without conditions has a trained one"
            return style
        first = min(self.train, key=lambda r: r.name)
        condition = recording_condition(first)
        assert condition is not None, "recordings with conditions have them all"
        return condition


def load_acestep_task(config: TrainConfig, reporter: Reporter, backend: str) -> AudioTask:
    """Find the base, encode or read the recordings with their conditions, and split them.

    Raises:
        MusicLoraError: whatever does not fit, in one line.
    """
    base = find_model(config.model)
    shape = read_acestep(base.path).config
    split = load_split(config, base, backend, reporter)
    recordings = (*split.train, *split.held_out)
    if len({recording_condition(r) is None for r in recordings}) > 1:
        raise DataError(
            f"{config.data_dir}: some recordings have a condition and some have none; run musiclora preprocess again "
            "with this model"
        )
    learning = AceStepLearning(base, shape, split.train, split.held_out, config.caption)
    if note := learning.objective.note:
        reporter.say(note)
    return AudioTask(base, split, learning, backend, config.vae)


if TYPE_CHECKING:

    def _as_learning(learning: AceStepLearning) -> FlowLearning:
        return learning
