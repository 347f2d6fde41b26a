"""Flow sampling of whole pieces: noise by seed and piece, conditions, batches of pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora import flow
from musiclora.audio.init_audio import Reference
from musiclora.backends.base import Arrays
from musiclora.convert.models.diffrhythm import CONDITION
from musiclora.errors import ConfigError, DataError
from musiclora.generation_result import options_below

_TOGETHER = 4096  # frames in one pass of the network


@dataclass(frozen=True)
class FlowRequest:
    """What to generate.

    Attributes:
        seconds: length; None takes the reference's where parts of one are repainted, else all that the model holds.
        steps: grid points of the time axis; one update fewer.
        guidance: strength w of spec 5.5, 0 for one pass.
        seed: piece i of one seed is the same whatever count is.
        count: how many pieces.
        style: `adapter`, a file, or words for the text encoder; None takes the adapter's where it has one.
        negative_style: a file, or None for zeros.
        init_audio: recording to continue or to repaint.
        repaint: (start, end) in seconds, -1 for the beginning or the end; empty continues the recording.
        vae: the codec; None takes the one beside the model.
    """

    seconds: float | None = None
    steps: int = 32
    guidance: float = 4.0
    seed: int = 42
    count: int = 1
    style: str | None = None
    negative_style: Path | None = None
    init_audio: Path | None = None
    repaint: tuple[tuple[float, float], ...] = ()
    vae: Path | None = None

    def __post_init__(self) -> None:
        problems = options_below(self, (("steps", 2), ("count", 1), ("seed", 0), ("guidance", 0)))
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            problems.append(f"--seconds is {self.seconds}; it must be above 0")
        if self.repaint and self.init_audio is None:
            problems.append("--repaint: there is no recording to repaint; give --init-audio")
        if problems:
            raise ConfigError("; ".join(problems))


def sample_latents(
    model: Any,
    request: FlowRequest,
    frames: int,
    style: np.ndarray | None,
    negative: np.ndarray | None,
    reference: Reference | None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[np.ndarray]:
    """Latents of all pieces, each float32 [T, C]; piece i depends on the seed and on i alone.

    Args:
        model: a FlowModel.
        request: seed, count, steps, guidance.
        frames: T.
        style, negative: float32 [512], None for zeros.
        reference: what is known of a recording.
        on_progress: told of updates done and in all.

    Raises:
        DataError: values that are not finite came out.
    """
    latents: list[np.ndarray] = []
    # Without any condition both passes are the same one: their difference is zero whatever its strength.
    guidance = 0.0 if style is None and negative is None and reference is None else request.guidance
    watched = _Watched(model, on_progress, request.count * (request.steps - 1))
    together = max(1, _TOGETHER // frames)
    for first in range(0, request.count, together):
        numbers = range(first, min(first + together, request.count))
        noise = np.stack([_noise(request.seed, i, frames, model.latent_channels) for i in numbers])
        prepared = model.prepare(piece_conditioning(model, len(numbers), frames, style, negative, reference))
        known, mask = (None, None) if reference is None else reference.rows(len(numbers))
        watched.rows = len(numbers)
        latents += list(flow.sample(watched, prepared, noise, request.steps, guidance, known, mask))
    if not all(np.isfinite(piece).all() for piece in latents):
        raise DataError("the model made values that are not finite; try another --seed, a lower --guidance or float32")
    return latents


class _Watched:
    """A model whose network passes are counted over all batches of pieces; that is all that `flow.sample` calls."""

    def __init__(self, model: Any, tell: Callable[[int, int], None], total: int) -> None:
        self._model, self._tell, self._total, self._done = model, tell, total, 0
        self.rows = 1

    def velocity(self, x: np.ndarray, time: float | np.ndarray, prepared: Any, guidance: float) -> np.ndarray:
        """See `backends.base.FlowModel`."""
        found: np.ndarray = self._model.velocity(x, time, prepared, guidance)
        self._done += self.rows
        self._tell(min(self._done, self._total), self._total)
        return found


def _noise(seed: int, number: int, frames: int, channels: int) -> np.ndarray:
    return np.random.default_rng([seed, number]).standard_normal((frames, channels), np.float32)


def piece_conditioning(
    model: Any,
    rows: int,
    frames: int,
    style: np.ndarray | None,
    negative: np.ndarray | None,
    reference: Reference | None,
) -> Arrays:
    """What does not depend on time, for so many equal rows; a piece starts at 0."""
    zeros = np.zeros(CONDITION, np.float32)
    batch = {
        "valid": np.ones((rows, frames), bool),
        "start_time": np.zeros(rows, np.float32),
        "style": np.tile(zeros if style is None else style, (rows, 1)),
        "negative_style": np.tile(zeros if negative is None else negative, (rows, 1)),
    }
    if model.has_duration:
        batch["duration"] = np.full(rows, frames / model.max_frames, np.float32)
    if reference is not None:
        known, mask = reference.rows(rows)
        batch["cond"] = np.where(mask[:, :, None], np.float32(0), known)
    return batch
