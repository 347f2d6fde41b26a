"""ACE-Step's sampling: schedules by kind of checkpoint, Euler steps with adaptive projected guidance, repainting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclora import flow
from musiclora.audio.acestep.contexts import context_of, read_silence
from musiclora.audio.acestep.guidance import AdaptiveGuidance
from musiclora.audio.acestep.times import TURBO_SHIFT, TURBO_STEPS, shift_time
from musiclora.audio.flow_sampling import solve_pieces
from musiclora.audio.init_audio import Reference
from musiclora.backends.base import Arrays, FlowModel
from musiclora.convert.models.acestep import read_acestep
from musiclora.convert.models.acestep_config import AceStepConfig

NO_GUIDANCE = 1.0
_GUIDED_STEPS, _GUIDED_SHIFT, _GUIDED_SCALE = 50, 1.0, 7.0  # of base and sft


@dataclass(frozen=True)
class Schedule:
    """Steps of a sampling.

    Attributes:
        steps: Euler steps.
        shift: moves steps towards noise; 1 leaves them even.
        guidance: the usual scale of classifier-free guidance; 1 computes one pass.
    """

    steps: int
    shift: float
    guidance: float

    @property
    def times(self) -> np.ndarray:
        """Grid points in the interface's time, float64 [steps + 1], from noise (0) to data (1)."""
        even = np.arange(self.steps, -1, -1) / self.steps
        grid: np.ndarray = 1 - np.asarray(shift_time(even, self.shift))
        return grid


def own_schedule(config: AceStepConfig) -> Schedule:
    """Return a checkpoint's own schedule: eight steps without guidance for turbo, 50 guided ones for base and sft."""
    if config.is_distilled:
        return Schedule(TURBO_STEPS, TURBO_SHIFT, NO_GUIDANCE)
    return Schedule(_GUIDED_STEPS, _GUIDED_SHIFT, _GUIDED_SCALE)


@dataclass(frozen=True)
class PieceConditions:
    """Conditions of pieces that differ in their noise alone.

    Attributes:
        condition: float32 [S, D]; None for the null condition.
        context: float32 [T, 2 C], source latents and mask.
    """

    condition: np.ndarray | None
    context: np.ndarray

    def conditioning(self, rows: int) -> Arrays:
        """Build what `FlowModel.prepare` takes, for equal rows."""
        arrays = {"context": np.repeat(self.context[None], rows, axis=0)}
        if self.condition is not None:
            arrays["condition"] = np.repeat(self.condition[None], rows, axis=0)
            arrays["condition_valid"] = np.ones(arrays["condition"].shape[:2], bool)
        return arrays


def context_for(silence: np.ndarray, frames: int, reference: Reference | None = None) -> np.ndarray:
    """Build the context of a piece, float32 [T, 2 C], from silence and the recording that it keeps."""
    if reference is None:
        return context_of(silence, frames)
    return context_of(silence, frames, reference.known, reference.mask)


def sample_latents(
    model: FlowModel,
    schedule: Schedule,
    conditions: PieceConditions,
    seed: int,
    count: int,
    reference: Reference | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[np.ndarray]:
    """Sample the latents of pieces, each float32 [T, C]; piece i depends on the seed and on i alone.

    The model sees a recording's kept frames in the context, and makes all frames; the kept ones are put back at the
    end.

    Args:
        model: the base with its adapters.
        schedule: steps and guidance.
        conditions: of every piece.
        seed, count: of the pieces.
        reference: known frames of a recording.
        on_progress: receives the steps done and their total.

    Raises:
        DataError: the latents are not finite.
    """
    guided = schedule.guidance > NO_GUIDANCE and conditions.condition is not None

    def solve(noise: np.ndarray, on_pass: Callable[[], None]) -> np.ndarray:
        prepared, guidance = model.prepare(conditions.conditioning(len(noise))), AdaptiveGuidance(schedule.guidance)

        def velocity(x: np.ndarray, time: float) -> np.ndarray:
            if guided:
                found = guidance.combine(*model.velocities(x, time, prepared))
            else:
                found = model.velocity(x, time, prepared, 0.0)
            on_pass()
            return found

        made = flow.integrate(velocity, noise, schedule.times)
        if reference is None:
            return made
        known, mask = reference.rows(len(noise))
        return np.where(mask[:, :, None], made, known)

    shape = (len(conditions.context), model.latent_channels)
    return solve_pieces(solve, schedule.steps, seed, count, shape, on_progress)


def sample_pieces(
    model: FlowModel, folder: Path, condition: np.ndarray | None, count: int, seed: int, frames: int
) -> list[np.ndarray]:
    """Sample pieces with a checkpoint's own schedule, each float32 [T, C].

    Args:
        model: the base with its adapter.
        folder: the base's.
        condition: float32 [S, D]; None for the null condition.
        count, seed: of the pieces.
        frames: T.
    """
    conditions = PieceConditions(condition, context_for(read_silence(folder), frames))
    return sample_latents(model, own_schedule(read_acestep(folder).config), conditions, seed, count)
