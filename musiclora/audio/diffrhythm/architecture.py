"""DiffRhythm as the shared audio code sees it (implements `audio.architecture.FlowArchitecture`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musiclora.audio.architecture import EncodingModel, FlowArchitecture, FlowShape
from musiclora.audio.diffrhythm.base import check_base_loss
from musiclora.audio.diffrhythm.conditions import DiffRhythmForm, check_recording_conditions
from musiclora.audio.latents.encode import encode_recordings
from musiclora.backends.base import Arrays, Model
from musiclora.backends.registry import get_backend
from musiclora.convert.models.diffrhythm import CONDITION, read_diffrhythm
from musiclora.evaluation.verdict import BaseCheck
from musiclora.models import BaseModel
from musiclora.progress import Reporter

_PROBE_FRAMES = 32


class DiffRhythm:
    """Sizes, codec and conditions of DiffRhythm's model folders."""

    frame_rate = 44100 / 2048

    def read_shape(self, folder: Path) -> FlowShape:
        """Read a model folder's sizes."""
        config = read_diffrhythm(folder).config
        return FlowShape(config.mel_dim, config.max_frames, CONDITION)

    def find_codec(self, folder: Path) -> Path | None:
        """Find `vae/`."""
        path = folder / "vae"
        return path if path.is_dir() else None

    def encode_folder(
        self, folder: Path, cache: Path, model: EncodingModel, caption: str | None, reporter: Reporter
    ) -> Sequence[str]:
        """Encode the recordings; their styles, where they have any, come from `preprocess`."""
        codec = get_backend(model.backend).load_codec(model.codec)
        return encode_recordings(folder, cache, codec, model.fingerprint, reporter).notes()

    def check_conditions(self, conditions: Arrays, frames: int, width: int, where: str) -> None:
        """Check style and text of a recording."""
        check_recording_conditions(conditions, frames, where)

    def check_items(self, items: Sequence[Mapping[str, Any]], base: BaseModel, folder: Path) -> None:
        """Accept all: styles and phonemes are no model's own."""

    def probe(self, folder: Path) -> Arrays:
        """Draw a small flow batch."""
        config, rng = read_diffrhythm(folder).config, np.random.default_rng(0)
        shape = (1, min(_PROBE_FRAMES, config.max_frames), config.mel_dim)
        batch: Arrays = {
            "latents": rng.standard_normal(shape, np.float32),
            "noise": rng.standard_normal(shape, np.float32),
            "time": np.array([0.5], np.float32),
            "valid": np.ones(shape[:2], bool),
            "start_time": np.zeros(1, np.float32),
        }
        return {**batch, "duration": np.ones(1, np.float32)} if config.duration_embedding else batch

    def scoring_form(self, folder: Path, length: int) -> DiffRhythmForm:
        """Build the form of scored batches: every recording with its own style, or with the model's."""
        config = read_diffrhythm(folder).config
        return DiffRhythmForm(length, config.max_frames, config.duration_embedding)

    def check_base(
        self, base: BaseModel, loss: float, batches: Sequence[Arrays], load: Callable[[Path], Model]
    ) -> BaseCheck:
        """Compare a base's loss with a guess's, and try the other causal switch where it is no better."""
        return check_base_loss(base.name, base.path, loss, batches, load)


DIFFRHYTHM = DiffRhythm()

if TYPE_CHECKING:
    _: FlowArchitecture = DIFFRHYTHM
