"""Audio training task: latents of recordings, and the flow model that learns them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from musiclora.audio.architecture import FlowArchitecture, FlowLearning, FlowShape, architecture_of
from musiclora.audio.files.writing import decode_latents, normalise_peak, write_audio
from musiclora.audio.model import audio_fingerprints, codec_folder, frame_rate
from musiclora.audio.split import Split, recording_labels
from musiclora.audio.style_files import STYLE_FILE, read_style
from musiclora.audio.training_copies import SAMPLE_SECONDS, TrainingAudioCopies
from musiclora.audio.window_counts import WindowCounts
from musiclora.audio.windows import PASS_FRAMES, BatchForm, Recording, WindowEpochs, batches_by_quarter, fixed_batches
from musiclora.backends.base import Arrays, FlowModel, LossSum, Model
from musiclora.backends.registry import get_backend, probe
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.files.atomic import atomic_folder
from musiclora.convert.files.links import copy_folder
from musiclora.errors import list_names
from musiclora.evaluation.copy_figures import CopyFigures
from musiclora.evaluation.sample_findings import SampleFindings
from musiclora.evaluation.scores import count_pieces, flow_gain, flow_score, total_loss
from musiclora.evaluation.verdict import BaseCheck
from musiclora.models import BaseModel
from musiclora.training.adapter_files import AdapterForm
from musiclora.training.config import TrainConfig
from musiclora.training.lazy_batches import PartedBatches
from musiclora.training.plan import batch_shape
from musiclora.training.task import PlanDefaults, Scores, TrainingTask
from musiclora.training.weighing import BY_SONGS

_STYLE = "style"  # name among the trained arrays of the state folder
_JUDGED_RECORDINGS = 64  # of the training recordings, one window each, that the base is judged on
# Devices on which a base of half the size is as fast; torch on MPS is known to leak and to give NaN.
_HALF_PRECISION_DEVICES = ("cuda", "metal")
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class AudioTask:
    """Training task of the audio family (implements `TrainingTask`).

    Attributes:
        base: the model folder.
        split: the recordings.
        learning: the architecture's part.
        backend: decodes samples with the codec.
        vae: the codec, None for the one in the base's folder.
    """

    family: ClassVar[str] = "audio"

    base: BaseModel
    split: Split
    learning: FlowLearning
    backend: str
    vae: str | None = None

    @property
    def form(self) -> AdapterForm:
        return self.learning.form

    @functools.cached_property
    def architecture(self) -> FlowArchitecture:
        """The base's architecture."""
        return architecture_of(self.base.path)

    @functools.cached_property
    def shape(self) -> FlowShape:
        """The base's sizes."""
        return self.architecture.read_shape(self.base.path)

    @property
    def train(self) -> Sequence[Recording]:
        """Recordings to train on."""
        return self.split.train

    @property
    def held_out(self) -> Sequence[Recording]:
        """Recordings that are only scored."""
        return self.split.held_out

    @property
    def plan_defaults(self) -> PlanDefaults:
        # A step of one to eight rows as in the original, hundreds of steps: the velocity is noisier than tokens are.
        return PlanDefaults(
            "frames", self.shape.channels, (512, 16384), PASS_FRAMES, 600, (4, 400), "squared error a latent value"
        )

    @property
    def trains_style(self) -> bool:
        """True where no recording and no option brings a style or condition: one is trained with the adapter."""
        return self.learning.style_source == "trained"

    def hash_data(self) -> str:
        digest = hashlib.sha256(self.learning.digest())
        for part in (self.train, self.held_out):
            for r in part:
                digest.update(r.checksum.encode() + b"\0" + np.ascontiguousarray(r.latents).tobytes())
            digest.update(b"|")
        return digest.hexdigest()

    def count_songs(self) -> tuple[int, int]:
        return self._counts

    @functools.cached_property
    def _counts(self) -> tuple[int, int]:  # every saved adapter states it, and all latents are hashed for it
        return len(set(recording_labels(self.train))), len(set(recording_labels(self.held_out)))

    def describe_data(self) -> Sequence[str]:
        train, held_out = (
            f"{count_pieces(n, 'recordings')}{f' ({len(part)} segments)' if len(part) > n else ''}"
            for n, part in zip(self.count_songs(), (self.train, self.held_out), strict=True)
        )
        names = [f"held out: {list_names(self._held_out_sources, 8)}"] if self.held_out else []
        return [f"{train} to train on, {held_out} held out", *names, *self.split.notes, self.learning.describe()]

    @property
    def _held_out_sources(self) -> list[str]:
        return list(dict.fromkeys(r.source for r in self.held_out))

    def complete_options(self, config: TrainConfig) -> TrainConfig:
        return config

    def describe_plan(self, config: TrainConfig) -> Sequence[str]:
        frames, longest = self.measure_epoch(config)
        rows, _ = batch_shape(config, frames, longest, self.plan_defaults)
        dtype = self.choose_dtype(config, probe(self.backend)["device"])
        checkpointing = self.needs_checkpointing(config)
        memory = self.learning.memory_lines(config.lora(), rows, longest, _DTYPE_BYTES[dtype], checkpointing)
        return [*self._window_counts(config).lines(), *memory]

    def _window_counts(self, config: TrainConfig) -> WindowCounts:
        labels = recording_labels(self.train) if config.weigh == BY_SONGS else None
        return WindowCounts(self.train, self.row_length(config), config.seed, labels)

    def row_length(self, config: TrainConfig) -> int:
        return min(config.max_seq_len, self.shape.max_frames)

    def measure_epoch(self, config: TrainConfig) -> tuple[int, int]:
        counts = self._window_counts(config)
        return round(counts.frames), counts.longest

    def _batch_form(self, config: TrainConfig) -> BatchForm:
        return self.learning.batch_form(self.row_length(config))

    def training_epochs(self, config: TrainConfig, rows: int) -> WindowEpochs:
        counts = self._window_counts(config)
        return WindowEpochs(self.train, self._batch_form(config), rows, config.seed, counts.draw)

    def held_out_batches(self, config: TrainConfig, rows: int) -> Sequence[Arrays]:
        if not self.held_out:
            return []
        quarters = batches_by_quarter(self.held_out, self._batch_form(config), rows)
        return PartedBatches({f"time_{number}": part for number, part in enumerate(quarters, 1)})

    def further_batches(self, config: TrainConfig, rows: int) -> Mapping[str, Sequence[Arrays]]:
        return {}

    def song_batches(self, config: TrainConfig) -> Sequence[Sequence[Arrays]]:
        rows = config.batch_size or max(1, self.plan_defaults.pass_units // self.row_length(config))
        return [fixed_batches([r], self._batch_form(config), rows) for r in self.held_out]

    def judging_batches(self, config: TrainConfig) -> Sequence[Sequence[Arrays]]:
        rows = config.batch_size or max(1, self.plan_defaults.pass_units // self.row_length(config))
        order = np.random.default_rng([config.seed, 2]).permutation(len(self.train))[:_JUDGED_RECORDINGS].tolist()
        return [fixed_batches([self.train[i]], self._batch_form(config), rows, most=1) for i in order]

    def hash_songs(self) -> Sequence[str]:
        return sorted({r.fingerprint for r in self.train})

    def choose_dtype(self, config: TrainConfig, device: str) -> str:
        return config.dtype or ("bfloat16" if device in _HALF_PRECISION_DEVICES else "float32")

    def needs_checkpointing(self, config: TrainConfig) -> bool:
        return config.grad_checkpointing is not False

    def check_base(
        self, model: FlowModel, loss: float, config: TrainConfig, load: Callable[[Path], Model]
    ) -> BaseCheck:
        songs = [*self.song_batches(config), *self.judging_batches(config)]
        batches = [batch for song in songs for batch in song]
        return self.architecture.check_base(self.base, loss, batches, load)

    def compare_losses(self, before: Sequence[LossSum], after: Sequence[LossSum]) -> Scores:
        base, trained = (flow_score(total_loss(sums), self.shape.channels) for sums in (before, after))
        return Scores(base, trained, flow_gain(before, after, recording_labels(self.held_out)))

    def copied_spans(self, sample: Path) -> tuple[()]:
        """Return no spans: the recordings' sound is not at hand."""
        return ()

    def measure_samples(self, model: FlowModel, count: int, seed: int) -> CopyFigures | None:
        return self._copies.measure_samples(lambda frames: self.learning.make_pieces(model, count, seed, frames))

    @functools.cached_property
    def _copies(self) -> TrainingAudioCopies:
        return TrainingAudioCopies(self.train, self.held_out, self._sample_frames, self._frame_rate)

    @functools.cached_property
    def _frame_rate(self) -> float:
        return frame_rate(self.base, self.vae)

    @property
    def _sample_frames(self) -> int:
        return min(self.shape.max_frames, int(SAMPLE_SECONDS * self._frame_rate))

    def judge_samples(self, model: FlowModel, count: int, seed: int) -> SampleFindings:
        return SampleFindings(self.measure_samples(model, count, seed))

    def write_sample(self, model: FlowModel, folder: Path, name: str, seed: int) -> None:
        codec = get_backend(self.backend).load_codec(codec_folder(self.base, self.vae))
        (latents,) = self.learning.make_pieces(model, 1, seed, self._sample_frames)
        audio, _ = normalise_peak(decode_latents(codec, latents))
        write_audio(folder / f"{name}.wav", audio, codec.sample_rate)

    def begin_training(self, model: FlowModel, saved: Arrays | None) -> None:
        if self.trains_style:
            model.set_style(self.learning.first_style() if saved is None else saved[_STYLE])

    def trained_arrays(self, model: FlowModel) -> Arrays:
        style = model.read_style() if self.trains_style else None
        return {**model.read_adapter(), **({} if style is None else {_STYLE: style})}

    def restore_state(self, model: FlowModel, arrays: Arrays) -> None:
        model.write_adapter({name: array for name, array in arrays.items() if name != _STYLE})

    def restore_adapter(self, model: FlowModel, folder: Path) -> Arrays:
        best = read_peft(folder).model_state
        model.write_adapter(best)
        style = read_style(folder / STYLE_FILE) if self.trains_style else None
        if style is not None:
            model.set_style(style)
        return best

    def base_fingerprints(self) -> dict[str, str]:
        return audio_fingerprints(self.base.path, self.split.codec)

    def extra_files(self, model: FlowModel) -> Mapping[str, bytes]:
        return self.learning.adapter_files(model)

    def adapter_record(self) -> dict[str, Any]:
        own = {"style": self.learning.style_source, "trained_on": self.hash_songs()}
        return {**own, **self.learning.adapter_record()}

    def card_lines(self) -> Sequence[str]:
        return []

    def run_record(self, config: TrainConfig) -> dict[str, Any]:
        frames = sum(r.frames for r in self.train)
        return {
            "max_frames": self.shape.max_frames,
            "style": self.learning.style_source,
            "codec": self.split.codec,
            "frames": frames,
            "held_out_recordings": self._held_out_sources,
        }

    def save_model(self, path: Path, model: FlowModel) -> None:
        with atomic_folder(path, overwrite=True) as folder:
            self.learning.write_model(folder, model)
            if (self.base.path / "vae").is_dir():
                copy_folder(self.base.path / "vae", folder / "vae", self.base.path)


if TYPE_CHECKING:

    def _as_training_task(task: AudioTask) -> TrainingTask[FlowModel]:
        return task
