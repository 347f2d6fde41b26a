"""Flow sampling of whole pieces: generation options, noise by seed and piece, batches of pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from musiclora import flow
from musiclora.audio.init_audio import Reference
from musiclora.audio.windows import PASS_FRAMES
from musiclora.backends.base import Arrays, FlowModel
from musiclora.errors import ConfigError, DataError
from musiclora.generation_result import MOST_PIECES, MOST_SEED, options_below, options_outside

MOST_STEPS = 100_000

DEFAULT_GUIDANCE = 4.0  # DiffRhythm's


@dataclass(frozen=True)
class FlowRequest:
    """Options of audio generation, named as in the command.

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
        bounds = (("steps", 2, MOST_STEPS), ("count", 1, MOST_PIECES), ("seed", 0, MOST_SEED))
        given = [] if self.guidance is None else [("guidance", 0)]
        problems = [*options_outside(self, bounds), *options_below(self, given)]
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            problems.append(f"--seconds is {self.seconds}; it must be above 0")
        if self.repaint and self.init_audio is None:
            problems.append("--repaint: there is no recording to repaint; give --init-audio")
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


def solve_pieces(
    solve: Callable[[np.ndarray, Callable[[], None]], np.ndarray],
    passes: int,
    seed: int,
    count: int,
    shape: tuple[int, int],
    on_progress: Callable[[int, int], None],
) -> list[np.ndarray]:
    """Make pieces from noise in batches, each float32 [T, C]; piece i depends on the seed and on i alone.

    Args:
        solve: makes latents from noise float32 [B, T, C]; it calls its second argument after every network pass.
        passes: network passes of a batch.
        seed, count: of the pieces.
        shape: T and C.
        on_progress: receives the passes done and their total over all pieces.

    Raises:
        DataError: the latents are not finite.
    """
    latents: list[np.ndarray] = []
    pass_rows, done, total = max(1, PASS_FRAMES // shape[0]), 0, count * passes
    for first in range(0, count, pass_rows):
        numbers = range(first, min(first + pass_rows, count))
        rows = len(numbers)

        def on_pass(rows: int = rows) -> None:
            nonlocal done
            done += rows
            on_progress(min(done, total), total)

        latents += list(solve(np.stack([_piece_noise(seed, i, shape) for i in numbers]), on_pass))
    if not all(np.isfinite(piece).all() for piece in latents):
        raise DataError("the model made values that are not finite; try another --seed, a lower --guidance or float32")
    return latents


class _CountedField:
    """Velocity field that reports its network passes."""

    def __init__(self, model: FlowModel, on_pass: Callable[[], None]) -> None:
        self._model, self._on_pass = model, on_pass

    def velocity(self, x: np.ndarray, time: float | np.ndarray, prepared: Any, guidance: float) -> np.ndarray:
        """Compute the velocity; see `backends.base.FlowModel`."""
        found = self._model.velocity(x, time, prepared, guidance)
        self._on_pass()
        return found


def _piece_noise(seed: int, number: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng([seed, number]).standard_normal(shape, np.float32)
