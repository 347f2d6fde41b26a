"""ACE-Step's part of `musiclora generate`: words to conditions, schedule, length, and recordings to repaint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from musiclora.adapters import Adapter
from musiclora.audio.acestep.contexts import read_silence
from musiclora.audio.acestep.request import AceStepRequest, words_of
from musiclora.audio.acestep.sampling import (
    NO_GUIDANCE,
    PieceConditions,
    Schedule,
    context_for,
    own_schedule,
    sample_latents,
)
from musiclora.audio.acestep.song_text import SongText
from musiclora.audio.acestep.timbre import timbre_latents
from musiclora.audio.acestep.times import objective_of
from musiclora.audio.flow_sampling import check_files, check_length
from musiclora.audio.generate import PieceMaker, PiecePlan, generate_pieces
from musiclora.audio.init_audio import Reference, read_reference
from musiclora.audio.model import OpenedFlow, codec_folder, own_guidance
from musiclora.audio.style_files import blended_style
from musiclora.backends.acestep_batches import MAX_FRAMES
from musiclora.backends.base import Codec
from musiclora.backends.registry import choose, get_backend
from musiclora.convert.models.acestep import read_acestep
from musiclora.convert.models.acestep_config import AceStepConfig
from musiclora.convert.models.oobleck import read_oobleck
from musiclora.errors import ConfigError
from musiclora.generation_result import GenerationResult, GenerationSetup
from musiclora.models import BaseModel
from musiclora.progress import Reporter

DEFAULT_SECONDS = 30.0
_PEAK = 10 ** (-1 / 20)  # -1 dB of full scale, as in ACE-Step's own generation


def generate_from_options(
    output: Path, options: Mapping[str, Any], **setup: Unpack[GenerationSetup]
) -> GenerationResult:
    """Generate from options by parameter name, as `jobs.generate` passes them."""
    own = {name: options[name] for name in ("train_dir",) if name in options}
    request = AceStepRequest(**{name: value for name, value in options.items() if name not in own})
    return generate_pieces(output, AceStepPieces(request), **own, **setup)


@dataclass(frozen=True)
class AceStepPieces:
    """ACE-Step's part of a generation (implements `generate.PieceMaker`).

    Attributes:
        request: options of the pieces.
    """

    request: AceStepRequest

    @property
    def peak(self) -> float:
        return _PEAK

    def inputs(self) -> Mapping[str, Path | str | None]:
        return {"--lyrics": self.request.lyrics, "--reference": self.request.reference}

    def prepare(
        self, base: BaseModel, adapters: Sequence[Adapter], backend: str, reporter: Reporter
    ) -> Callable[[OpenedFlow], PiecePlan]:
        request = self.request
        check_files({"--reference": request.reference, "--init-audio": request.init_audio})
        codec, config = codec_folder(base, request.vae), read_acestep(base.path).config
        sizes = read_oobleck(codec).config
        rate = sizes.sample_rate / sizes.hop
        if request.seconds is not None or request.init_audio is None:
            check_length(_count_frames(request.seconds, rate), request.seconds, MAX_FRAMES, rate)
        source, notes = _choose_source(request, base, adapters)
        schedule, more = _choose_schedule(request, config, base)
        reference, timbre, frames, found = _read_sound(request, codec, choose(backend), rate)
        condition = source.style
        if source.text is not None:
            length = frames / rate if request.seconds is None else request.seconds
            text = dataclasses.replace(source.text, seconds=length, repaint=reference is not None)
            condition = _encode_words(text, timbre, base, choose(backend), reporter)
        pieces = _Pieces(request, schedule, reference, frames, condition, source.text is None)
        return lambda opened: pieces.plan(opened, [*found, *more, *notes])


@dataclass(frozen=True)
class _Pieces:
    """Pieces whose conditions are computed.

    Attributes:
        request: options.
        schedule: steps and guidance.
        reference: recording that is kept in part.
        frames: length.
        condition: float32 [S, D].
        is_adapters: the condition was trained with the adapter: the base without it has the null condition.
    """

    request: AceStepRequest
    schedule: Schedule
    reference: Reference | None
    frames: int
    condition: np.ndarray | None
    is_adapters: bool

    def plan(self, opened: OpenedFlow, notes: Sequence[str]) -> PiecePlan:
        """Plan the sampling by a loaded model."""
        context = context_for(read_silence(opened.base.path), self.frames, self.reference)

        def sample(bare: bool, on_progress: Callable[[int, int], None]) -> list[np.ndarray]:
            condition = None if bare and self.is_adapters else self.condition
            conditions, request = PieceConditions(condition, context), self.request
            return sample_latents(
                opened.model, self.schedule, conditions, request.seed, request.count, self.reference, on_progress
            )

        return PiecePlan(self.frames, self.reference, sample, notes)


@dataclass(frozen=True)
class _Source:
    """Where the condition of the pieces comes from.

    Attributes:
        text: words to encode; None where there are none.
        style: the adapters' trained condition, float32 [K, D].
    """

    text: SongText | None
    style: np.ndarray | None = None


def _choose_source(request: AceStepRequest, base: BaseModel, adapters: Sequence[Adapter]) -> tuple[_Source, list[str]]:
    """Choose between the words that are given, the adapters' trained condition, and the adapters' caption.

    Raises:
        ConfigError: words without a text encoder, or nothing that brings a condition.
    """
    from musiclora.audio.acestep.encoding import has_text_encoder

    style, words = blended_style(adapters), request.word_options
    if style is not None and not words:
        return _Source(None, style), ["the condition is the one that was trained with the adapter"]
    can_read = has_text_encoder(base.path)
    if words and not can_read:
        raise ConfigError(f"{', '.join(words)}: {base.name} has no text encoder; {_encoder_advice(style)}")
    if not can_read:
        lacking = "has no text encoder, and no adapter with a trained condition is given"
        raise ConfigError(f"{base.name}: {lacking}; {_encoder_advice(None)}")
    caption, notes = _choose_caption(request, adapters)
    if style is not None:
        notes.append("the words that are given take the place of the condition that was trained with the adapter")
    lyrics = "" if request.lyrics is None else words_of(request.lyrics)
    facts = (request.bpm, request.key, request.time_signature, request.language or "en")
    return _Source(SongText(caption, lyrics, *facts)), notes


def _encoder_advice(style: np.ndarray | None) -> str:
    more = "" if style is None else ", or leave these options out: the adapter has a trained condition"
    return f"put text_encoder/ (Qwen3-Embedding-0.6B with its tokenizer.json) into the model's folder{more}"


def _choose_caption(request: AceStepRequest, adapters: Sequence[Adapter]) -> tuple[str, list[str]]:
    """Choose the caption: the option's, else the first that an adapter records, else none; with notes."""
    if request.caption is not None:
        return request.caption.strip(), []
    recorded = (adapter.record.get("caption") for adapter in adapters)
    own = next((text for text in recorded if isinstance(text, str) and text.strip()), None)
    if own is not None:
        return own, [f"the caption is the adapter's: {own}"]
    return "", ["no caption is given: the model chooses the music; describe it with --caption"]


def _choose_schedule(request: AceStepRequest, config: AceStepConfig, base: BaseModel) -> tuple[Schedule, list[str]]:
    """Choose steps, shift and guidance: the options', else the checkpoint's own; with notes."""
    own, guidance = own_schedule(config), request.guidance
    if guidance is None:
        guidance = own_guidance(base.path)
    notes = []
    if objective_of(config).note:  # the configuration names no kind
        notes.append(
            f"warning: {base.name}: its config.json does not say if it is turbo, base or sft; sampled as base is, in "
            f"{own.steps} steps with guidance"
        )
    if config.is_distilled and request.guidance is not None and request.guidance > NO_GUIDANCE:
        notes.append(f"--guidance {request.guidance:g} is ignored: turbo was trained to need none")
    if config.is_distilled or guidance is None:
        guidance = own.guidance
    steps = own.steps if request.steps is None else request.steps
    return Schedule(steps, own.shift if request.shift is None else request.shift, guidance), notes


def _count_frames(seconds: float | None, rate: float) -> int:
    """Return the latent frames of a length, a begun one included."""
    return math.ceil((DEFAULT_SECONDS if seconds is None else seconds) * rate - 1e-6)


def _read_sound(
    request: AceStepRequest, folder: Path, backend: str, rate: float
) -> tuple[Reference | None, np.ndarray | None, int, list[str]]:
    """Read the recordings of a request with the codec, which is let go then.

    Returns:
        The recording to keep in part, the timbre's latents, the frames of the pieces, and notes.
    """
    frames = _count_frames(request.seconds, rate)
    if request.reference is None and request.init_audio is None:
        return None, None, frames, []
    codec: Codec = get_backend(backend).load_codec(folder)
    timbre = None if request.reference is None else timbre_latents(request.reference, codec, request.seed)
    if request.init_audio is None:
        return None, timbre, frames, []
    wanted, further = (None if request.seconds is None else frames), _count_frames(None, rate)
    reference, notes = read_reference(
        request.init_audio, request.repaint, codec, wanted, MAX_FRAMES, request.seed, peak=None, further=further
    )
    return reference, timbre, len(reference.mask), notes


def _encode_words(
    text: SongText, timbre: np.ndarray | None, base: BaseModel, backend: str, reporter: Reporter
) -> np.ndarray:
    """Encode words and timbre to a condition, float32 [S, D]."""
    from musiclora.audio.acestep.encoding import encode_songs

    (condition,) = encode_songs([text], base.path, backend, [timbre], reporter)
    return condition


if TYPE_CHECKING:

    def _as_maker(maker: AceStepPieces) -> PieceMaker:
        return maker
