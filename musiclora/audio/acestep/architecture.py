"""ACE-Step as the shared audio code sees it (implements `audio.architecture.FlowArchitecture`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musiclora.audio.acestep.contexts import context_of, read_silence
from musiclora.audio.acestep.encoders import check_condition_encoder
from musiclora.audio.acestep.form import AceStepForm, check_condition
from musiclora.audio.acestep.times import objective_of
from musiclora.audio.architecture import EncodingModel, FlowArchitecture, FlowShape
from musiclora.audio.base_check import compare_with_baseline
from musiclora.backends.acestep_batches import MAX_FRAMES
from musiclora.backends.base import Arrays, Model
from musiclora.convert.models.acestep import read_acestep
from musiclora.convert.models.acestep_folders import find_acestep
from musiclora.errors import DataError
from musiclora.evaluation.verdict import BaseCheck
from musiclora.models import BaseModel
from musiclora.progress import Reporter

_PROBE_FRAMES, _PROBE_ROWS = 16, 4  # frames of latents, and rows of the condition
_OTHERS = ("style", "text")  # conditions of DiffRhythm's recordings


class AceStep:
    """Sizes, codec and conditions of ACE-Step's model folders."""

    frame_rate = 48000 / 1920

    def read_shape(self, folder: Path) -> FlowShape:
        """Read a model folder's sizes."""
        config = read_acestep(folder).config
        return FlowShape(config.latent_dim, MAX_FRAMES, config.encoder.hidden)

    def find_codec(self, folder: Path) -> Path | None:
        """Find the codec in the model's folder or beside it, as upstream keeps it."""
        return find_acestep(folder).vae

    def encode_folder(
        self, folder: Path, cache: Path, model: EncodingModel, caption: str | None, reporter: Reporter
    ) -> Sequence[str]:
        """Encode the recordings and the words that belong to them."""
        from musiclora.audio.acestep.preprocess import encode_with_conditions

        return encode_with_conditions(folder, cache, model, caption, reporter)

    def check_conditions(self, conditions: Arrays, frames: int, width: int, where: str) -> None:
        """Check the condition of a recording; a style or phonemes are DiffRhythm's."""
        if found := [name for name in _OTHERS if name in conditions]:
            raise DataError(
                f"{where}: holds a {found[0]}, which is DiffRhythm's: encode the recordings with musiclora preprocess "
                "and this model"
            )
        check_condition(conditions, width, where)

    def check_items(self, items: Sequence[Mapping[str, Any]], base: BaseModel, folder: Path) -> None:
        """Compare the condition encoder; see `check_condition_encoder`."""
        check_condition_encoder(items, base, folder)

    def probe(self, folder: Path) -> Arrays:
        """Draw a small flow batch with a random condition."""
        shape, rng = self.read_shape(folder), np.random.default_rng(0)
        latents = (1, _PROBE_FRAMES, shape.channels)
        return {
            "latents": rng.standard_normal(latents, np.float32),
            "noise": rng.standard_normal(latents, np.float32),
            "time": np.array([0.5], np.float32),
            "valid": np.ones(latents[:2], bool),
            "condition": rng.standard_normal((1, _PROBE_ROWS, shape.condition_width), np.float32),
            "condition_valid": np.ones((1, _PROBE_ROWS), bool),
            "context": context_of(read_silence(folder), _PROBE_FRAMES)[None],
        }

    def scoring_form(self, folder: Path, length: int) -> AceStepForm:
        """Build the form of scored batches: every recording with its own condition, or with the model's."""
        return AceStepForm(length, read_silence(folder), objective_of(read_acestep(folder).config))

    def check_base(
        self, base: BaseModel, loss: float, batches: Sequence[Arrays], load: Callable[[Path], Model]
    ) -> BaseCheck:
        """Compare a base's loss with a guess's."""
        return compare_with_baseline(base.name, loss, batches)


def acestep_facts(folder: Path) -> dict[str, Any]:
    """Collect size, kind and parts of an ACE-Step folder, for `doctor`."""
    checkpoint = read_acestep(folder)
    config, parts = checkpoint.config, checkpoint.folder
    return {
        "max_frames": MAX_FRAMES,
        "dim": config.decoder.hidden,
        "depth": len(config.layer_types),
        "kind": config.model_version or ("turbo" if config.is_distilled else "unknown"),
        "layout": checkpoint.layout,
        "bits": checkpoint.bits,
        "codec": None if parts.vae is None else "vae",
        "text_encoder": None if parts.text_encoder is None else parts.text_encoder.name,
    }


ACESTEP = AceStep()

if TYPE_CHECKING:
    _: FlowArchitecture = ACESTEP
