"""Form of ACE-Step's flow batches: context, condition and times of training windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from musiclora.audio.acestep.contexts import context_of
from musiclora.audio.acestep.times import Objective
from musiclora.audio.windows import BatchForm, Recording, Window
from musiclora.backends.base import Arrays
from musiclora.errors import DataError

CONDITION = "condition"  # of a recording in a latents folder, float32 [S, D]


@dataclass(frozen=True)
class AceStepForm:
    """Form of ACE-Step's flow batches (implements `windows.BatchForm`).

    Attributes:
        length: longest window in frames.
        silence: the model's encoded silence, float32 [frames, C].
        objective: distribution of the times, and share of dropped conditions.
    """

    length: int
    silence: np.ndarray
    objective: Objective

    def draw_times(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw training times, float64 [count]."""
        return self.objective.times.draw(rng, count)

    def time_at(self, share: float) -> float:
        """Return a quantile of the training times."""
        return self.objective.times.at(share)

    def drop_conditions(self, rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        """Draw which rows lose their whole condition, bool [rows]; the flag is there for every batch or for none."""
        rate = self.objective.drop_rate
        return {"drop_condition": rng.random(rows) < rate} if rate else {}

    def window_conditions(self, windows: Sequence[Window], frames: int) -> dict[str, np.ndarray]:
        """Build context [B, T, 2 C], and condition [B, S, D] with its mask where the recordings have conditions."""
        context = np.repeat(context_of(self.silence, frames)[None], len(windows), axis=0)
        conditions = [recording_condition(w.recording) for w in windows]
        found = [c for c in conditions if c is not None]
        if len(found) < len(conditions):
            return {"context": context}
        return {"context": context, **pad_conditions(found)}


def recording_condition(recording: Recording) -> np.ndarray | None:
    """Return a recording's condition, float32 [S, D]; None where one is trained."""
    return recording.conditions.get(CONDITION)


def pad_conditions(conditions: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Lay conditions [S, D] of different lengths into one array with zeros behind, and their mask."""
    longest = max(len(c) for c in conditions)
    rows = np.zeros((len(conditions), longest, conditions[0].shape[1]), np.float32)
    for row, condition in zip(rows, conditions, strict=True):
        row[: len(condition)] = condition
    valid = np.arange(longest) < np.array([[len(c)] for c in conditions])
    return {"condition": rows, "condition_valid": valid}


def check_condition(conditions: Arrays, width: int, where: str) -> None:
    """Check the condition of a recording in a latents folder.

    Args:
        conditions: its arrays without the latents.
        width: D of the model's condition encoder.
        where: beginning of the message.

    Raises:
        DataError: another width, no row, or values that are not finite.
    """
    found = conditions.get(CONDITION)
    if found is None:
        return
    if found.ndim != 2 or not len(found) or found.shape[1] != width or not np.isfinite(found).all():
        raise DataError(
            f"{where}: its condition has shape {list(found.shape)}, expected rows of {width} finite values: it is "
            "another model's; run musiclora preprocess again with this one"
        )


if TYPE_CHECKING:

    def _as_form(form: AceStepForm) -> BatchForm:
        return form
