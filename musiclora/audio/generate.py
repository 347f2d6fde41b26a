"""Audio part of `musiclora generate`: open the model, solve the flow, decode, write recordings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from musiclora.adapters import base_of, find_adapter, parse_adapter
from musiclora.audio.diffrhythm.conditions import DiffRhythmConditions
from musiclora.audio.diffrhythm.style import given_style
from musiclora.audio.files.writing import (
    AUDIO_OUTPUT_FORMATS,
    SILENT_PEAK,
    decode_latents,
    measure_peak,
    need_soundfile,
    normalise_peak,
    write_audio,
)
from musiclora.audio.flow_sampling import FlowRequest, sample_latents
from musiclora.audio.init_audio import Reference, read_reference
from musiclora.audio.model import OpenedFlow, codec_folder, open_flow, own_guidance
from musiclora.audio.piece_copies import PieceCopies, open_piece_copies
from musiclora.audio.windows import MIN_FRAMES
from musiclora.backends.base import Codec
from musiclora.convert.models.diffrhythm import read_diffrhythm
from musiclora.convert.models.oobleck import read_oobleck
from musiclora.errors import ConfigError
from musiclora.evaluation.audio_copies.meter import AudioCopyResult
from musiclora.formats import BASE_MARK, output_paths
from musiclora.generation_result import (
    GeneratedFile,
    GenerationResult,
    GenerationSetup,
    check_comparison,
    check_output_names,
    complete_output,
)
from musiclora.progress import Reporter

_LEAST_GUIDANCE = 1e-5  # below it there is no second pass and no negative style


@dataclass(frozen=True)
class AudioFile:
    """Recording that was written.

    Attributes:
        path: the WAV or FLAC file.
        kind: `adapted`, or `base` for a model without adapter.
        seconds: its length.
        silent: True where the codec decoded silence.
        copies: its copy figures, the reason why it has none, or None where no training recordings are known.
    """

    path: Path
    kind: str
    seconds: float
    silent: bool
    copies: AudioCopyResult | str | None = None

    def record(self) -> dict[str, Any]:
        """Build the entry for `--json`."""
        found = {"copy": self.copies.as_json()} if isinstance(self.copies, AudioCopyResult) else {}
        length = round(self.seconds, 2)
        return {"path": str(self.path), "kind": self.kind, "seconds": length, "silent": self.silent, **found}

    def line(self) -> str:
        """Format path, length, kind and copies."""
        text = f"{self.path}: {self.seconds:.1f} s, {self.kind}{', silent' if self.silent else ''}"
        if isinstance(self.copies, AudioCopyResult):
            return f"{text}, {self.copies.line()}"
        return text if self.copies is None else f"{text}, not measured for copies: {self.copies}"


if TYPE_CHECKING:
    _: type[GeneratedFile] = AudioFile


def generate_from_options(
    output: Path, options: Mapping[str, Any], **setup: Unpack[GenerationSetup]
) -> GenerationResult:
    """Generate from options by parameter name, as `jobs.generate` passes them."""
    own = {name: options[name] for name in ("train_dir",) if name in options}
    request = FlowRequest(**{name: value for name, value in options.items() if name not in own})
    return generate_recordings(output, request, **own, **setup)


def generate_recordings(
    output: Path,
    request: FlowRequest,
    *,
    model: str | None = None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    train_dir: Path | None = None,
    compare: bool = False,
    allow_base_mismatch: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> GenerationResult:
    """Generate recordings as WAV or FLAC files; nothing is written before all are sampled.

    Args:
        output: `F.wav` or `F.flac`; several pieces become `F-001.wav` and so on, the base's versions `F-base.wav`.
        request: options of the pieces.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number.
        backend: `auto`, `mlx` or `torch`.
        train_dir: training recordings or their latents, to measure copies of.
        compare: also write the base's version from the same seed.
        allow_base_mismatch: use an adapter although its base differs.
        overwrite: replace files that exist.
        reporter: receives the progress.

    Raises:
        MusicLoraError: the options, the model or an adapter do not fit.
    """
    output = complete_output(output, tuple(AUDIO_OUTPUT_FORMATS))
    check_comparison(compare, adapters)
    inputs: dict[str, Path | str | None] = {
        "--init-audio": request.init_audio,
        "--style": request.style,
        "--negative-style": request.negative_style,
        "--vae": request.vae,
    }
    check_output_names(output, request.count, compare, inputs, overwrite=overwrite)
    need_soundfile()
    _check_files_and_length(request, model, adapters)
    out = reporter or Reporter()
    opened = open_flow(model, adapters, backend, vae=request.vae, allow_base_mismatch=allow_base_mismatch)
    if request.guidance is None:
        request = dataclasses.replace(request, guidance=own_guidance(opened.base.path))
    style, notes = _choose_style(request, opened)
    negative = None if request.negative_style is None else given_style(str(request.negative_style), opened.backend)
    if negative is None and request.strength >= _LEAST_GUIDANCE:
        notes.append("no negative style is given: zeros are used")
    reference, frames, more = _choose_length(request, opened)
    copies = open_piece_copies(train_dir, opened, request.vae, frames, out) if train_dir else None
    conditions = [("", "adapted" if opened.adapters else "base", style)]
    if compare:
        conditions.append((BASE_MARK, "base", style if request.style not in (None, "adapter") else None))
    made: list[tuple[Path, str, np.ndarray]] = []
    for mark, kind, wanted in conditions:
        if mark:
            opened.model.set_adapter(False)
        with out.task(f"generating ({kind})") as update:
            given = DiffRhythmConditions(wanted, negative)
            pieces = sample_latents(opened.model, request, frames, given, reference, update)
        made += list(zip(output_paths(output, request.count, mark), [kind] * len(pieces), pieces, strict=True))
    files = _write_pieces(opened.codec, made, reference, copies, out, overwrite)
    if any(file.silent for file in files):
        notes.append("silence came out: it is written as it is, without normalising")
    return GenerationResult(
        opened.backend, opened.base.name, files, (*opened.notes, *more, *(copies.notes if copies else ()), *notes)
    )


def _write_pieces(
    codec: Codec,
    made: Sequence[tuple[Path, str, np.ndarray]],
    reference: Reference | None,
    copies: PieceCopies | None,
    out: Reporter,
    overwrite: bool,
) -> list[AudioFile]:
    """Decode and write pieces, each (file, kind, latents), with the reference's own samples where they are kept."""
    files, rate = [], codec.sample_rate
    with out.task("decoding") as update:
        for number, (path, kind, latents) in enumerate(made, 1):
            audio = decode_latents(codec, latents)
            if reference is None:
                audio, silent = normalise_peak(audio)
            else:
                measure_peak(audio)
                audio = reference.restore_sound(audio)
                silent = measure_peak(audio) < SILENT_PEAK
            write_audio(path, audio, rate, same_samples=reference is not None, overwrite=overwrite)
            new = None if reference is None else reference.mask
            found = copies.measure(audio, rate, latents, new) if copies else None
            files.append(AudioFile(path, kind, audio.shape[1] / rate, silent, found))
            update(number, len(made))
    return files


def _choose_style(request: FlowRequest, opened: OpenedFlow) -> tuple[np.ndarray | None, list[str]]:
    """Choose the style vector: the option's, else the adapter's, else none; with notes."""
    if request.style not in (None, "adapter"):
        return given_style(str(request.style), opened.backend), []
    if opened.style is not None:
        return opened.style, ["the style is the adapter's"]
    if request.style == "adapter":
        raise ConfigError("--style adapter: no adapter that is given holds a style vector")
    return None, ["no style is given: zeros are used"]


def _check_files_and_length(request: FlowRequest, model: str | None, adapters: Sequence[str]) -> None:
    """Refuse what would fail only after the model is loaded: missing files, and a length that it cannot make.

    Raises:
        ConfigError: one of them.
    """
    files = {"--negative-style": request.negative_style, "--init-audio": request.init_audio}
    for option, file in files.items():
        if file is not None and not file.is_file():
            raise ConfigError(f"{option} {file}: there is no such file")
    base = base_of(model, [find_adapter(*parse_adapter(text)) for text in adapters])
    codec = read_oobleck(codec_folder(base, request.vae)).config
    _count_frames(request.seconds, read_diffrhythm(base.path).config.max_frames, codec.sample_rate / codec.hop)


def _count_frames(seconds: float | None, longest: int, pace: float) -> int:
    """Return the latent frames of a length, or the longest.

    Raises:
        ConfigError: the model cannot make such a length.
    """
    frames = longest if seconds is None else int(seconds * pace)
    if not MIN_FRAMES <= frames <= longest:
        raise ConfigError(
            f"--seconds is {seconds:g}; this model makes {MIN_FRAMES / pace:.1f} to {longest / pace:.1f} s "
            f"(at most {longest} frames)"
        )
    return frames


def _choose_length(request: FlowRequest, opened: OpenedFlow) -> tuple[Reference | None, int, list[str]]:
    """Read the reference recording and choose the number of frames; with notes."""
    codec, longest = opened.codec, opened.model.max_frames
    pace = codec.sample_rate / codec.hop
    frames = _count_frames(request.seconds, longest, pace)
    if request.init_audio is None:
        return None, frames, []
    wanted = None if request.seconds is None else frames
    reference, notes = read_reference(request.init_audio, request.repaint, codec, wanted, longest, request.seed)
    return reference, len(reference.mask), notes
