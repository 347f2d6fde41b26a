"""DiffRhythm's conditions: start, duration, style and lyrics, for training windows and for generated pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from musiclora.audio.diffrhythm.sampling import PieceConditions
from musiclora.audio.init_audio import Reference
from musiclora.audio.windows import BatchForm, Recording, Window
from musiclora.backends.base import Arrays, FlowModel
from musiclora.convert.models.diffrhythm import CONDITION
from musiclora.errors import DataError
from musiclora.flow import draw_times

# Shares of training batches without a condition. Source: class defaults of DiffRhythm's model/cfm.py.
DROP_RATES = {"drop_audio": 0.3, "drop_style": 0.1, "drop_text": 0.1}


@dataclass(frozen=True)
class DiffRhythmForm:
    """Form of DiffRhythm's flow batches (implements `windows.BatchForm`).

    Attributes:
        length: longest window in frames.
        max_frames: longest piece of the model; durations are shares of it.
        has_duration: True for models with a duration condition.
        style: float32 [512] for every row, or None for the recordings' own.
    """

    length: int
    max_frames: int
    has_duration: bool
    style: np.ndarray | None = None

    def draw_times(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw training times, float64 [count]; see `flow.draw_times`."""
        return draw_times(rng, count)

    def time_at(self, share: float) -> float:
        """Return the quantile of the logit-normal distribution for a share in (0, 1)."""
        return 1 / (1 + math.exp(-NormalDist().inv_cdf(share)))

    def drop_conditions(self, rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        """Draw which conditions the whole batch lacks."""
        draws = rng.random(len(DROP_RATES))
        return {name: np.array(draw < rate) for (name, rate), draw in zip(DROP_RATES.items(), draws, strict=True)}

    def window_conditions(self, windows: Sequence[Window], frames: int) -> dict[str, np.ndarray]:
        """Build the conditions of windows padded to a number of frames.

        The start is a share of the whole recording, the duration a share of the longest piece.
        """
        batch = {"start_time": np.array([w.start / w.recording.frames for w in windows], np.float32)}
        if self.has_duration:
            batch["duration"] = np.array([w.frames / self.max_frames for w in windows], np.float32)
        if any("text" in w.recording.conditions for w in windows):
            batch["text"] = np.stack([_cut_text(w, frames) for w in windows])
        styles = [recording_style(w.recording) if self.style is None else self.style for w in windows]
        if all(style is not None for style in styles):
            batch["style"] = np.stack([np.asarray(style, np.float32) for style in styles])
        return batch


def recording_style(recording: Recording) -> np.ndarray | None:
    """Return a recording's own style vector, float32 [512]; None without one."""
    return recording.conditions.get("style")


def _cut_text(window: Window, frames: int) -> np.ndarray:
    """Cut the phonemes of a window, int32 [frames], padded with 0."""
    row = np.zeros(frames, np.int32)
    text = window.recording.conditions.get("text")
    if text is not None:
        row[: window.frames] = text[window.start : window.start + window.frames]
    return row


@dataclass(frozen=True)
class DiffRhythmConditions:
    """Conditions of pieces to generate (implements `sampling.PieceConditions`).

    Attributes:
        style, negative_style: float32 [512], None for zeros.
    """

    style: np.ndarray | None = None
    negative_style: np.ndarray | None = None

    def are_null(self, reference: Reference | None) -> bool:
        """Return True where the conditional and the unconditional pass are the same."""
        return self.style is None and self.negative_style is None and reference is None

    def conditioning(self, model: FlowModel, rows: int, frames: int, reference: Reference | None) -> Arrays:
        """Build what `FlowModel.prepare` takes, for equal rows of pieces that start at 0."""
        zeros = np.zeros(CONDITION, np.float32)
        batch = {
            "valid": np.ones((rows, frames), bool),
            "start_time": np.zeros(rows, np.float32),
            "style": np.tile(zeros if self.style is None else self.style, (rows, 1)),
            "negative_style": np.tile(zeros if self.negative_style is None else self.negative_style, (rows, 1)),
        }
        if model.has_duration:
            batch["duration"] = np.full(rows, frames / model.max_frames, np.float32)
        if reference is not None:
            known, mask = reference.rows(rows)
            batch["cond"] = np.where(mask[:, :, None], np.float32(0), known)
        return batch


def check_recording_conditions(conditions: Arrays, frames: int, where: str) -> None:
    """Check style and text of a recording in a latents folder.

    Args:
        conditions: its arrays without the latents.
        frames: length of its latents.
        where: beginning of the message.

    Raises:
        DataError: another width or length, or values that are not finite.
    """
    if "condition" in conditions:
        raise DataError(
            f"{where}: holds a condition of words, which is ACE-Step's: encode the recordings with musiclora "
            "preprocess and this model"
        )
    style, text = conditions.get("style"), conditions.get("text")
    if style is not None and (style.shape != (CONDITION,) or not np.isfinite(style).all()):
        raise DataError(f"{where}: its style has shape {list(style.shape)}, expected {CONDITION} finite values")
    if text is not None and text.shape != (frames,):
        raise DataError(f"{where}: its text has {len(text)} values for {frames} frames")


if TYPE_CHECKING:

    def _as_protocols(form: DiffRhythmForm, conditions: DiffRhythmConditions) -> tuple[BatchForm, PieceConditions]:
        return form, conditions
