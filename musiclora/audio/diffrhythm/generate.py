"""DiffRhythm's part of `musiclora generate`: styles, lengths, and recordings to continue or to repaint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from musiclora.adapters import Adapter
from musiclora.audio.diffrhythm.conditions import DiffRhythmConditions
from musiclora.audio.diffrhythm.sampling import FlowRequest, sample_latents
from musiclora.audio.diffrhythm.style import given_style
from musiclora.audio.flow_sampling import check_files, check_length
from musiclora.audio.generate import PieceMaker, PiecePlan, generate_pieces
from musiclora.audio.init_audio import Reference, read_reference
from musiclora.audio.model import OpenedFlow, codec_folder, own_guidance
from musiclora.convert.models.diffrhythm import read_diffrhythm
from musiclora.convert.models.oobleck import read_oobleck
from musiclora.errors import ConfigError
from musiclora.generation_result import GenerationResult, GenerationSetup
from musiclora.models import BaseModel
from musiclora.progress import Reporter

_LEAST_GUIDANCE = 1e-5  # below it there is no second pass and no negative style
_INIT_PEAK = 0.5012  # -6 dB of full scale, as in DiffRhythm's inference code


def generate_from_options(
    output: Path, options: Mapping[str, Any], **setup: Unpack[GenerationSetup]
) -> GenerationResult:
    """Generate from options by parameter name, as `jobs.generate` passes them."""
    own = {name: options[name] for name in ("train_dir",) if name in options}
    request = FlowRequest(**{name: value for name, value in options.items() if name not in own})
    return generate_recordings(output, request, **own, **setup)


def generate_recordings(
    output: Path, request: FlowRequest, *, train_dir: Path | None = None, **setup: Unpack[GenerationSetup]
) -> GenerationResult:
    """Generate recordings; see `audio.generate.generate_pieces`.

    Raises:
        MusicLoraError: the options, the model or an adapter do not fit.
    """
    return generate_pieces(output, DiffRhythmPieces(request), train_dir=train_dir, **setup)


@dataclass(frozen=True)
class DiffRhythmPieces:
    """DiffRhythm's part of a generation (implements `generate.PieceMaker`).

    Attributes:
        request: options of the pieces.
    """

    request: FlowRequest

    @property
    def peak(self) -> float:
        return 1.0

    def inputs(self) -> Mapping[str, Path | str | None]:
        return {"--style": self.request.style, "--negative-style": self.request.negative_style}

    def prepare(
        self, base: BaseModel, adapters: Sequence[Adapter], backend: str, reporter: Reporter
    ) -> Callable[[OpenedFlow], PiecePlan]:
        check_files({"--negative-style": self.request.negative_style, "--init-audio": self.request.init_audio})
        codec = read_oobleck(codec_folder(base, self.request.vae)).config
        longest = read_diffrhythm(base.path).config.max_frames
        _count_frames(self.request.seconds, longest, codec.sample_rate / codec.hop)
        return self._plan

    def _plan(self, opened: OpenedFlow) -> PiecePlan:
        request = self.request
        if request.guidance is None:
            request = dataclasses.replace(request, guidance=own_guidance(opened.base.path))
        style, notes = _choose_style(request, opened)
        negative = None if request.negative_style is None else given_style(str(request.negative_style), opened.backend)
        if negative is None and request.strength >= _LEAST_GUIDANCE:
            notes.append("no negative style is given: zeros are used")
        reference, frames, more = _choose_length(request, opened)

        def sample(bare: bool, on_progress: Callable[[int, int], None]) -> list[np.ndarray]:
            wanted = style if not bare or request.style not in (None, "adapter") else None
            given = DiffRhythmConditions(wanted, negative)
            return sample_latents(opened.model, request, frames, given, reference, on_progress)

        return PiecePlan(frames, reference, sample, (*more, *notes))


def _choose_style(request: FlowRequest, opened: OpenedFlow) -> tuple[np.ndarray | None, list[str]]:
    """Choose the style vector: the option's, else the adapter's, else none; with notes."""
    if request.style not in (None, "adapter"):
        return given_style(str(request.style), opened.backend), []
    if opened.style is not None:
        return opened.style, ["the style is the adapter's"]
    if request.style == "adapter":
        raise ConfigError("--style adapter: no adapter that is given holds a style vector")
    return None, ["no style is given: zeros are used"]


def _count_frames(seconds: float | None, longest: int, rate: float) -> int:
    """Return the latent frames of a length, or the longest.

    Raises:
        ConfigError: the model cannot make such a length.
    """
    frames = longest if seconds is None else int(seconds * rate)
    check_length(frames, seconds, longest, rate)
    return frames


def _choose_length(request: FlowRequest, opened: OpenedFlow) -> tuple[Reference | None, int, list[str]]:
    """Read the reference recording and choose the number of frames; with notes."""
    codec, longest = opened.codec, opened.model.max_frames
    frames = _count_frames(request.seconds, longest, codec.sample_rate / codec.hop)
    if request.init_audio is None:
        return None, frames, []
    wanted = None if request.seconds is None else frames
    reference, notes = read_reference(
        request.init_audio, request.repaint, codec, wanted, longest, request.seed, peak=_INIT_PEAK
    )
    return reference, len(reference.mask), notes


if TYPE_CHECKING:

    def _as_maker(maker: DiffRhythmPieces) -> PieceMaker:
        return maker
