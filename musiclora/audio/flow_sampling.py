"""Sampling of whole pieces that every flow model shares: checks of a request, noise by seed and piece, batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from musiclora.audio.windows import MIN_FRAMES, PASS_FRAMES
from musiclora.errors import ConfigError, DataError
from musiclora.generation_result import MOST_PIECES, MOST_SEED, options_outside

MOST_STEPS = 100_000


class PieceRequest(Protocol):
    """Options that every architecture has.

    Attributes:
        seconds: length; None for the architecture's default.
        seed: piece i of one seed is the same for every count.
        count: number of pieces.
        init_audio: recording to continue or to repaint.
        repaint: (start, end) in seconds, -1 for the beginning or the end; empty continues the recording.
        vae: the codec; None is the one in the model's folder.
    """

    @property
    def seconds(self) -> float | None: ...

    @property
    def seed(self) -> int: ...

    @property
    def count(self) -> int: ...

    @property
    def init_audio(self) -> Path | None: ...

    @property
    def repaint(self) -> tuple[tuple[float, float], ...]: ...

    @property
    def vae(self) -> Path | None: ...


def request_problems(request: PieceRequest) -> list[str]:
    """List what is wrong with the options that every architecture has."""
    problems = options_outside(request, (("count", 1, MOST_PIECES), ("seed", 0, MOST_SEED)))
    if request.seconds is not None and not 0 < request.seconds < float("inf"):
        problems.append(f"--seconds is {request.seconds}; it must be above 0")
    if request.repaint and request.init_audio is None:
        problems.append("--repaint: there is no recording to repaint; give --init-audio")
    return problems


def check_length(frames: int, seconds: float | None, longest: int, rate: float) -> None:
    """Refuse a length that a model cannot make.

    Args:
        frames: latent frames of the piece.
        seconds: its length as it was asked for.
        longest: longest piece of the model in frames.
        rate: latent frames a second.

    Raises:
        ConfigError: it is too short or too long.
    """
    if not MIN_FRAMES <= frames <= longest:
        given = frames / rate if seconds is None else seconds
        raise ConfigError(
            f"--seconds is {given:g}; this model makes {MIN_FRAMES / rate:.1f} to {longest / rate:.1f} s "
            f"(at most {longest} frames)"
        )


def check_files(options: dict[str, Path | None]) -> None:
    """Refuse a value of an option that is no file.

    Raises:
        ConfigError: there is no such file.
    """
    for option, file in options.items():
        if file is not None and not file.is_file():
            raise ConfigError(f"{option} {file}: there is no such file")


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


def _piece_noise(seed: int, number: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng([seed, number]).standard_normal(shape, np.float32)
