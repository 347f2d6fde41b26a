"""DiffRhythm's sampling: options of a generation, and an even grid of Euler steps with two passes for guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from musiclora import flow
from musiclora.audio.flow_sampling import MOST_STEPS, PieceRequest, request_problems, solve_pieces
from musiclora.audio.init_audio import Reference
from musiclora.backends.base import Arrays, FlowModel
from musiclora.errors import ConfigError
from musiclora.generation_result import options_below, options_outside

DEFAULT_GUIDANCE = 4.0


@dataclass(frozen=True)
class FlowRequest:
    """Options of DiffRhythm's generation, named as in the command.

    Attributes:
        seconds: length; None is the reference's length for repainting, else the model's longest.
        steps: ODE grid points (steps - 1 Euler updates).
        guidance: classifier-free guidance strength, the usual scale minus one; 0 computes one pass; None is what the
            model's record states, else DEFAULT_GUIDANCE.
        seed: piece i of one seed is the same for every count.
        count: number of pieces.
        style: `adapter`, a file, or words for the text encoder; None is the adapter's style where it has one.
        negative_style: a file, or None for zeros.
        init_audio: recording to continue or to repaint.
        repaint: (start, end) in seconds, -1 for the beginning or the end; empty continues the recording.
        vae: the codec; None is the one in the model's folder.
    """

    seconds: float | None = None
    steps: int = 32
    guidance: float | None = None
    seed: int = 42
    count: int = 1
    style: str | None = None
    negative_style: Path | None = None
    init_audio: Path | None = None
    repaint: tuple[tuple[float, float], ...] = ()
    vae: Path | None = None

    def __post_init__(self) -> None:
        given = [] if self.guidance is None else [("guidance", 0)]
        problems = [*options_outside(self, (("steps", 2, MOST_STEPS),)), *options_below(self, given)]
        problems += request_problems(self)
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def strength(self) -> float:
        """Guidance strength, DEFAULT_GUIDANCE where none is given."""
        return DEFAULT_GUIDANCE if self.guidance is None else self.guidance


class PieceConditions(Protocol):
    """Conditions of an architecture for pieces to generate."""

    def are_null(self, reference: Reference | None) -> bool:
        """Return True where the conditional and the unconditional pass are the same."""

    def conditioning(self, model: FlowModel, rows: int, frames: int, reference: Reference | None) -> Arrays:
        """Build what `FlowModel.prepare` takes, for equal rows."""


def sample_latents(
    model: FlowModel,
    request: FlowRequest,
    frames: int,
    conditions: PieceConditions,
    reference: Reference | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[np.ndarray]:
    """Sample the latents of all pieces, each float32 [T, C]; piece i depends on the seed and on i alone.

    Args:
        model: the base with its adapters.
        request: seed, count, steps, guidance.
        frames: T.
        conditions: of every piece.
        reference: known frames of a recording.
        on_progress: receives the updates done and their total.

    Raises:
        DataError: the latents are not finite.
    """
    guidance = 0.0 if conditions.are_null(reference) else request.strength

    def solve(noise: np.ndarray, on_pass: Callable[[], None]) -> np.ndarray:
        rows = len(noise)
        prepared = model.prepare(conditions.conditioning(model, rows, frames, reference))
        known, mask = (None, None) if reference is None else reference.rows(rows)
        return flow.sample(_CountedField(model, on_pass), prepared, noise, request.steps, guidance, known, mask)

    shape = (frames, model.latent_channels)
    return solve_pieces(solve, request.steps - 1, request.seed, request.count, shape, on_progress)


class _CountedField:
    """Velocity field that reports its network passes."""

    def __init__(self, model: FlowModel, on_pass: Callable[[], None]) -> None:
        self._model, self._on_pass = model, on_pass

    def velocity(self, x: np.ndarray, time: float | np.ndarray, prepared: Any, guidance: float) -> np.ndarray:
        """Compute the velocity; see `backends.base.FlowModel`."""
        found = self._model.velocity(x, time, prepared, guidance)
        self._on_pass()
        return found


if TYPE_CHECKING:

    def _as_request(request: FlowRequest) -> PieceRequest:
        return request
