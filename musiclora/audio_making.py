"""The audio job behind `musiclora generate`: open the model, solve the flow, decode, write recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora import flow
from musiclora.audio_files import checked_output, decoded, normalised, write_audio
from musiclora.audio_loading import OpenedFlow, given_style, open_flow
from musiclora.audio_reference import Reference, read_reference
from musiclora.backends.base import Arrays, Codec
from musiclora.convert.diffrhythm import CONDITION
from musiclora.errors import ConfigError, DataError
from musiclora.generation import output_paths
from musiclora.results import Reporter

BASE_MARK = "-base"
_LEAST = 16  # frames; three quarters of a second
_UNGUIDED = 1e-5  # below it there is no second pass, and no negative style
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
        problems = []
        for name, least in (("steps", 2), ("count", 1), ("seed", 0), ("guidance", 0)):
            value = getattr(self, name)
            if not least <= value < float("inf"):
                problems.append(f"--{name} is {value}; it must be at least {least}")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            problems.append(f"--seconds is {self.seconds}; it must be above 0")
        if self.repaint and self.init_audio is None:
            problems.append("--repaint: there is no recording to repaint; give --init-audio")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class WrittenAudio:
    """One file that was written."""

    path: Path
    kind: str
    seconds: float
    silent: bool

    def record(self) -> dict[str, Any]:
        """For --json."""
        return {"path": str(self.path), "kind": self.kind, "seconds": round(self.seconds, 2), "silent": self.silent}

    def line(self) -> str:
        """For people."""
        return f"{self.path}: {self.seconds:.1f} s, {self.kind}{', silent' if self.silent else ''}"


@dataclass(frozen=True)
class MadeAudio:
    """What one call made."""

    backend: str
    base: str
    files: list[WrittenAudio]
    notes: tuple[str, ...]


def from_options(output: Path, options: Mapping[str, Any], **common: Any) -> MadeAudio:
    """The command's part: options that were given, by parameter name."""
    return make_audio(output, FlowRequest(**options), **common)


def make_audio(
    output: Path,
    request: FlowRequest,
    *,
    model: str | None = None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    compare: bool = False,
    allow_base_mismatch: bool = False,
    reporter: Reporter | None = None,
) -> MadeAudio:
    """Generate recordings into WAV or FLAC files; nothing is written unless all of them succeed.

    Args:
        output: `F.wav` or `F.flac`; several pieces become `F-001.wav` and so on, the base's versions `F-base.wav`.
        request: what to make.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number.
        backend: `auto`, `mlx` or `torch`.
        compare: also make the base's version from the same seed.
        allow_base_mismatch: use an adapter although its base differs.
        reporter: told what happens.

    Raises:
        MusicLoraError: whatever does not fit, in one line.
    """
    output = checked_output(output)
    if compare and not adapters:
        raise ConfigError("--compare: there is no adapter to compare the base with; give --adapter-dir")
    out = reporter or Reporter()
    opened = open_flow(model, adapters, backend, vae=request.vae, allow_base_mismatch=allow_base_mismatch)
    style, notes = _style(request, opened)
    negative = None if request.negative_style is None else given_style(str(request.negative_style), opened.backend)
    if negative is None and request.guidance >= _UNGUIDED:
        notes.append("no negative style is given: zeros are used")
    reference, frames, more = _reference(request, opened)
    conditions = [("", "adapted" if opened.adapters else "base", style)]
    if compare:
        conditions.append((BASE_MARK, "base", style if request.style not in (None, "adapter") else None))
    made: list[tuple[Path, str, np.ndarray]] = []
    for mark, kind, wanted in conditions:
        if mark:
            opened.model.set_adapter(False)
        with out.task(f"generating ({kind})") as update:
            pieces = solve(opened.model, request, frames, wanted, negative, reference, update)
        made += list(zip(output_paths(output, request.count, mark), [kind] * len(pieces), pieces, strict=True))
    files = _write(opened.codec, made, out)
    if any(file.silent for file in files):
        notes.append("silence came out: it is written as it is, without normalising")
    return MadeAudio(opened.backend, opened.base.name, files, (*opened.notes, *more, *notes))


def _write(codec: Codec, made: Sequence[tuple[Path, str, np.ndarray]], out: Reporter) -> list[WrittenAudio]:
    """Decode and write pieces: (file, kind, latents)."""
    files, rate = [], codec.sample_rate
    with out.task("decoding") as update:
        for number, (path, kind, latents) in enumerate(made, 1):
            audio, silent = normalised(decoded(codec, latents))
            write_audio(path, audio, rate)
            files.append(WrittenAudio(path, kind, audio.shape[1] / rate, silent))
            update(number, len(made))
    return files


def _style(request: FlowRequest, opened: OpenedFlow) -> tuple[np.ndarray | None, list[str]]:
    """The style to generate with, and what to say about it."""
    if request.style not in (None, "adapter"):
        return given_style(str(request.style), opened.backend), []
    if opened.style is not None:
        return opened.style, ["the style is the adapter's"]
    if request.style == "adapter":
        raise ConfigError("--style adapter: no adapter that is given holds a style vector")
    return None, ["no style is given: zeros are used"]


def _reference(request: FlowRequest, opened: OpenedFlow) -> tuple[Reference | None, int, list[str]]:
    """The recording to start from, the frames to make, and notes."""
    codec, longest = opened.codec, opened.model.max_frames
    pace = codec.sample_rate / codec.hop
    frames = longest if request.seconds is None else int(request.seconds * pace)
    if not _LEAST <= frames <= longest:
        raise ConfigError(
            f"--seconds is {request.seconds:g}; this model makes {_LEAST / pace:.1f} to {longest / pace:.1f} s "
            f"(at most {longest} frames)"
        )
    if request.init_audio is None:
        return None, frames, []
    wanted = None if request.seconds is None else frames
    reference, notes = read_reference(request.init_audio, request.repaint, codec, wanted, longest, request.seed)
    return reference, len(reference.mask), notes


def solve(
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
        prepared = model.prepare(conditioning(model, len(numbers), frames, style, negative, reference))
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


def conditioning(
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


def sample_to_folder(model: Any, codec: Codec, folder: Path, name: str, seed: int, style: np.ndarray | None) -> Path:
    """Write one piece of at most ten seconds while training, as `<folder>/<name>.wav`."""
    frames = min(model.max_frames, int(10 * codec.sample_rate / codec.hop))
    request = FlowRequest(seed=seed, steps=16, guidance=0.0)
    (latents,) = solve(model, request, frames, style, None, None)
    path = folder / f"{name}.wav"
    write_audio(path, normalised(decoded(codec, latents))[0], codec.sample_rate)
    return path
