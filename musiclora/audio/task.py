"""Audio training task: latents of recordings, the flow model that learns them, and a style vector."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from safetensors.numpy import save

from musiclora.audio.diffrhythm.base import check_base_loss
from musiclora.audio.diffrhythm.conditions import DiffRhythmForm, recording_style
from musiclora.audio.diffrhythm.style import STYLE_FILE, read_style
from musiclora.audio.split import recording_labels, split_recordings
from musiclora.audio.training_copies import TrainingAudioCopies, training_copies
from musiclora.audio.window_counts import WindowCounts
from musiclora.audio.windows import PASS_FRAMES, Recording, WindowEpochs, fixed_batches
from musiclora.backends.base import Arrays, FlowModel, LossSum, Model
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.files.atomic import atomic_folder
from musiclora.convert.files.links import copy_folder
from musiclora.convert.models.diffrhythm import CONDITION, DiffRhythmConfig, read_diffrhythm, write_diffrhythm
from musiclora.errors import DataError, list_names
from musiclora.evaluation.copy_figures import CopyFigures
from musiclora.evaluation.sample_findings import SampleFindings
from musiclora.evaluation.scores import count_pieces, flow_gain, flow_score, total_loss
from musiclora.evaluation.verdict import BaseCheck
from musiclora.models import BaseModel, find_model
from musiclora.progress import Reporter
from musiclora.training.adapter_files import AdapterForm
from musiclora.training.config import TrainConfig
from musiclora.training.fold_summary import note_nothing_held_out
from musiclora.training.task import PlanDefaults, Scores, TrainingTask
from musiclora.training.weighing import BY_SONGS

_STYLE = "style"  # name among the trained arrays of the state folder
FORM = AdapterForm(
    "recordings",
    "new.wav",
    ", with `musiclora.backends.torch.diffrhythm.DiT.from_folder` as the base",
    None,
    False,
)
_JUDGED_RECORDINGS = 64  # of the training recordings, one window each, that the base is judged on
# Devices on which a base of half the size is as fast; torch on MPS is known to leak and to give NaN.
_HALF_PRECISION_DEVICES = ("cuda", "metal")


@dataclass(frozen=True)
class AudioTask:
    """Training task of the audio family (implements `TrainingTask`).

    Attributes:
        base: the model folder.
        shape: the base's sizes.
        train, held_out: recordings, split.
        notes: remarks on the data for the user.
        codec: fingerprint of the codec that made the latents.
        backend: decodes samples with the codec.
        style: float32 [512] that all recordings are learnt with, None for their own or a trained one.
        vae: the codec, None for the one in the base's folder.
    """

    family: ClassVar[str] = "audio"
    form: ClassVar[AdapterForm] = FORM

    base: BaseModel
    shape: DiffRhythmConfig
    train: Sequence[Recording]
    held_out: Sequence[Recording]
    notes: Sequence[str]
    codec: str
    backend: str
    style: np.ndarray | None = None
    vae: str | None = None

    @property
    def plan_defaults(self) -> PlanDefaults:
        # A step of one to eight rows as in the original, hundreds of steps: the velocity is noisier than tokens are.
        return PlanDefaults(
            "frames", self.shape.mel_dim, (512, 16384), PASS_FRAMES, 600, (4, 400), "squared error a latent value"
        )

    @property
    def trains_style(self) -> bool:
        """True where no recording and no option brings a style: one vector is trained with the adapter."""
        return self.style is None and all(recording_style(r) is None for r in (*self.train, *self.held_out))

    @property
    def style_source(self) -> str:
        """Source of the style: `trained`, `given` (an option) or `recordings`."""
        return "trained" if self.trains_style else ("given" if self.style is not None else "recordings")

    def hash_data(self) -> str:
        digest = hashlib.sha256(b"" if self.style is None else self.style.tobytes())
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
        style = {
            "trained": "one style vector is trained with the adapter",
            "given": "all recordings are learnt with the style that is given",
            "recordings": "every recording is learnt with the style beside it",
        }[self.style_source]
        names = [f"held out: {list_names(self._held_out_sources, 8)}"] if self.held_out else []
        return [f"{train} to train on, {held_out} held out", *names, *self.notes, style]

    @property
    def _held_out_sources(self) -> list[str]:
        return list(dict.fromkeys(r.source for r in self.held_out))

    def complete_options(self, config: TrainConfig) -> TrainConfig:
        return config

    def describe_plan(self, config: TrainConfig) -> Sequence[str]:
        return self._window_counts(config).lines()

    def _window_counts(self, config: TrainConfig) -> WindowCounts:
        labels = recording_labels(self.train) if config.weigh == BY_SONGS else None
        return WindowCounts(self.train, self.row_length(config), config.seed, labels)

    def row_length(self, config: TrainConfig) -> int:
        return min(config.max_seq_len, self.shape.max_frames)

    def measure_epoch(self, config: TrainConfig) -> tuple[int, int]:
        counts = self._window_counts(config)
        return round(counts.frames), counts.longest

    def _batch_form(self, config: TrainConfig) -> DiffRhythmForm:
        return DiffRhythmForm(self.row_length(config), self.shape.max_frames, self.shape.duration_embedding, self.style)

    def training_epochs(self, config: TrainConfig, rows: int) -> WindowEpochs:
        counts = self._window_counts(config)
        return WindowEpochs(self.train, self._batch_form(config), rows, config.seed, counts.draw)

    def held_out_batches(self, config: TrainConfig, rows: int) -> Sequence[Arrays]:
        return fixed_batches(self.held_out, self._batch_form(config), rows)

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
        return check_base_loss(self.base.name, self.base.path, loss, batches, load)

    def compare_losses(self, before: Sequence[LossSum], after: Sequence[LossSum]) -> Scores:
        base, trained = (flow_score(total_loss(sums), self.shape.mel_dim) for sums in (before, after))
        return Scores(base, trained, flow_gain(before, after, recording_labels(self.held_out)))

    def copied_spans(self, sample: Path) -> tuple[()]:
        """Return no spans: the recordings' sound is not at hand."""
        return ()

    def measure_samples(self, model: FlowModel, count: int, seed: int) -> CopyFigures | None:
        return self._copies.measure_samples(model, count, seed, self._sample_style(model))

    @functools.cached_property
    def _copies(self) -> TrainingAudioCopies:
        return training_copies(self.train, self.held_out, self.shape.max_frames)

    def judge_samples(self, model: FlowModel, count: int, seed: int) -> SampleFindings:
        return SampleFindings(self.measure_samples(model, count, seed))

    def write_sample(self, model: FlowModel, folder: Path, name: str, seed: int) -> None:
        from musiclora.audio.generate import write_audio_sample
        from musiclora.audio.model import codec_folder
        from musiclora.backends.registry import get_backend

        codec = get_backend(self.backend).load_codec(codec_folder(self.base, self.vae))
        write_audio_sample(model, codec, folder, name, seed, self._sample_style(model))

    def _sample_style(self, model: FlowModel) -> np.ndarray | None:
        return model.read_style() if self.trains_style else self._known_style()

    def begin_training(self, model: FlowModel, saved: Arrays | None) -> None:
        if self.trains_style:
            model.set_style(np.zeros(CONDITION, np.float32) if saved is None else saved[_STYLE])

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
        from musiclora.audio.model import audio_fingerprints

        return audio_fingerprints(self.base.path, self.codec)

    def extra_files(self, model: FlowModel) -> Mapping[str, bytes]:
        style = self._sample_style(model)
        return {STYLE_FILE: save({"style": np.asarray(style, np.float32)}, {"format": "pt"})}

    def adapter_record(self) -> dict[str, Any]:
        return {"style": self.style_source, "trained_on": self.hash_songs()}

    def card_lines(self) -> Sequence[str]:
        return []

    def run_record(self, config: TrainConfig) -> dict[str, Any]:
        frames = sum(r.frames for r in self.train)
        return {
            "max_frames": self.shape.max_frames,
            "style": self.style_source,
            "codec": self.codec,
            "frames": frames,
            "held_out_recordings": self._held_out_sources,
        }

    def save_model(self, path: Path, model: FlowModel) -> None:
        with atomic_folder(path, overwrite=True) as folder:
            write_diffrhythm(folder, self.shape, model.read_weights(), "hf", "float32")
            if (self.base.path / "vae").is_dir():
                copy_folder(self.base.path / "vae", folder / "vae", self.base.path)

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


if TYPE_CHECKING:

    def _as_training_task(task: AudioTask) -> TrainingTask[FlowModel]:
        return task


def load_audio_task(config: TrainConfig, reporter: Reporter, backend: str) -> AudioTask:
    """Find the base, encode or read the recordings, and split them.

    Recordings are encoded into `<output-dir>-latents`, next to the run, where later starts find them.

    Raises:
        MusicLoraError: whatever does not fit, in one line.
    """
    from musiclora.audio.diffrhythm.style import given_style
    from musiclora.audio.latents.load import load_recordings

    base = find_model(config.model)
    shape = read_diffrhythm(base.path).config
    style = given_style(config.style, backend) if config.style else None
    output = config.main_folder  # folds share their run's latents
    found = load_recordings(
        Path(config.data_dir),
        base,
        shape.mel_dim,
        config.vae,
        backend,
        output.with_name(output.name + "-latents"),
        reporter,
    )
    if style is None and len({recording_style(r) is None for r in found.recordings}) > 1:
        raise DataError(f"{config.data_dir}: some recordings have a style and some have none; give all one, or --style")
    split = (config.val_split, config.seed, config.held_fold, config.kept_share)
    train, held_out, notes = split_recordings(found.recordings, *split)
    notes += note_nothing_held_out(config, "recordings")
    return AudioTask(base, shape, train, held_out, [*found.notes, *notes], found.codec, backend, style, config.vae)
