"""Audio part of `musiclora generate`, the same for every architecture: open, sample, decode, write recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from musiclora.adapters import Adapter, base_of, find_adapter, parse_adapter
from musiclora.audio.files.writing import (
    AUDIO_OUTPUT_FORMATS,
    SILENT_PEAK,
    decode_latents,
    measure_peak,
    need_soundfile,
    normalise_peak,
    write_audio,
)
from musiclora.audio.flow_sampling import PieceRequest
from musiclora.audio.init_audio import Reference
from musiclora.audio.model import OpenedFlow, open_flow
from musiclora.audio.piece_copies import PieceCopies, open_piece_copies
from musiclora.backends.base import Codec
from musiclora.evaluation.audio_copies.meter import AudioCopyResult
from musiclora.formats import BASE_MARK, output_paths
from musiclora.generation_result import (
    GeneratedFile,
    GenerationResult,
    check_comparison,
    check_output_names,
    complete_output,
)
from musiclora.models import BaseModel
from musiclora.progress import Reporter


@dataclass(frozen=True)
class PiecePlan:
    """How the pieces of a request are made by a loaded model.

    Attributes:
        frames: their length.
        reference: the recording that they keep in part.
        sample: makes the latents of all pieces, each float32 [T, C]; True for the pieces of `--compare`, whose
            adapter is off. It reports the passes done and their total.
        notes: remarks for the user.
    """

    frames: int
    reference: Reference | None
    sample: Callable[[bool, Callable[[int, int], None]], list[np.ndarray]]
    notes: Sequence[str]


class PieceMaker(Protocol):
    """Architecture's part of a generation.

    Attributes:
        request: options of the pieces.
        peak: of the recordings that are written, at most 1.
    """

    @property
    def request(self) -> PieceRequest: ...

    @property
    def peak(self) -> float: ...

    def inputs(self) -> Mapping[str, Path | str | None]:
        """Return the values of options that name files, which no output may overwrite."""

    def prepare(
        self, base: BaseModel, adapters: Sequence[Adapter], backend: str, reporter: Reporter
    ) -> Callable[[OpenedFlow], PiecePlan]:
        """Refuse what does not fit and compute what needs no model, before the model is loaded.

        Raises:
            MusicLoraError: an option, a file or a part of the model does not fit.
        """


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


def generate_pieces(
    output: Path,
    maker: PieceMaker,
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
        maker: the architecture's part, with the options.
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
    request, out = maker.request, reporter or Reporter()
    output = complete_output(output, tuple(AUDIO_OUTPUT_FORMATS))
    check_comparison(compare, adapters)
    inputs = {"--init-audio": request.init_audio, "--vae": request.vae, **maker.inputs()}
    check_output_names(output, request.count, compare, inputs, overwrite=overwrite)
    need_soundfile()
    found = [find_adapter(*parse_adapter(text)) for text in adapters]
    make_plan = maker.prepare(base_of(model, found), found, backend, out)
    opened = open_flow(model, adapters, backend, vae=request.vae, allow_base_mismatch=allow_base_mismatch)
    plan = make_plan(opened)
    copies = open_piece_copies(train_dir, opened, request.vae, plan.frames, out) if train_dir else None
    versions = [("", "adapted" if opened.adapters else "base"), *([(BASE_MARK, "base")] if compare else [])]
    made: list[tuple[Path, str, np.ndarray]] = []
    for mark, kind in versions:
        if mark:
            opened.model.set_adapter(False)
        with out.task(f"generating ({kind})") as update:
            pieces = plan.sample(bool(mark), update)
        made += list(zip(output_paths(output, request.count, mark), [kind] * len(pieces), pieces, strict=True))
    reference = plan.reference
    files = _write_pieces(opened.codec, made, reference, copies, out, peak=maker.peak, overwrite=overwrite)
    notes = [*opened.notes, *plan.notes, *(copies.notes if copies else ())]
    if any(file.silent for file in files):
        notes.append("silence came out: it is written as it is, without normalising")
    return GenerationResult(opened.backend, opened.base.name, files, tuple(notes))


def _write_pieces(
    codec: Codec,
    made: Sequence[tuple[Path, str, np.ndarray]],
    reference: Reference | None,
    copies: PieceCopies | None,
    out: Reporter,
    *,
    peak: float,
    overwrite: bool,
) -> list[AudioFile]:
    """Decode and write pieces, each (file, kind, latents), with the reference's own samples where they are kept."""
    files, rate = [], codec.sample_rate
    with out.task("decoding") as update:
        for number, (path, kind, latents) in enumerate(made, 1):
            audio = decode_latents(codec, latents)
            if reference is None:
                audio, silent = normalise_peak(audio, peak)
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
