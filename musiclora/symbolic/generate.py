"""Symbolic part of `musiclora generate`: loads the model, generates pieces, writes MIDI files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from musiclora.errors import ConfigError
from musiclora.evaluation.copies.index_file import COPY_INDEX
from musiclora.evaluation.copies.meter import CopyResult
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
from musiclora.symbolic.copying import PieceMeter, open_piece_meter
from musiclora.symbolic.decoding.pieces import check_tokens, generate_pieces
from musiclora.symbolic.decoding.redraw import Redraw
from musiclora.symbolic.decoding.request import GeneratedPiece, GenerationRequest
from musiclora.symbolic.decoding.songs_record import describe_instruments, songs_instruments
from musiclora.symbolic.given_music import GivenMusic
from musiclora.symbolic.model import OpenedModel, open_model

if TYPE_CHECKING:
    from symusic import Score


@dataclass(frozen=True)
class MidiFile:
    """MIDI file that was written.

    Attributes:
        path: the file.
        kind: `adapted`, or `base` for a model without adapter.
        piece: the piece in it.
        seconds: its length.
        copies: copy figures of its new notes, None where no training songs are known.
    """

    path: Path
    kind: str
    piece: GeneratedPiece
    seconds: float
    copies: CopyResult | None = None

    def record(self) -> dict[str, Any]:
        """Build the entry for `--json`."""
        p = self.piece
        return {
            "path": str(self.path),
            "kind": self.kind,
            "notes": p.notes,
            "prompt_notes": p.prompt_notes,
            "tokens": len(p.ids),
            "seconds": round(self.seconds, 2),
            "ended_by_model": p.ended,
            **({"copy": {**self.copies.as_json(), "redraws": p.redraws}} if self.copies else {}),
        }

    def line(self) -> str:
        """Format path, notes, length, kind and how the piece ended."""
        ending = self.piece.ending or ("ended by the model" if self.piece.ended else "cut at a bar line")
        text = f"{self.path}: {self.piece.notes} notes, {self.seconds:.0f} s, {self.kind}, {ending}"
        if self.piece.redraws:
            times = f"{self.piece.redraws} times" if self.piece.redraws > 1 else "once"
            text += f", drawn again {times} because it copied"
        return f"{text}, {self.copies.line()}" if self.copies else text


if TYPE_CHECKING:
    _: type[GeneratedFile] = MidiFile


def generate_from_options(
    output: Path, options: Mapping[str, Any], **setup: Unpack[GenerationSetup]
) -> GenerationResult:
    """Generate from options by parameter name, as `jobs.generate` passes them."""
    request, given, own = split_options(options)
    return generate_songs(output, request, given=given, **own, **setup)


def split_options(options: Mapping[str, Any]) -> tuple[GenerationRequest, GivenMusic, dict[str, Any]]:
    """Split options by parameter name into a request, what is given, and `tokenizer`, `train_dir`, `avoid_copying`."""
    names = {field.name for field in dataclasses.fields(GivenMusic)}
    given = GivenMusic(**{name: value for name, value in options.items() if name in names})
    own = {name: options[name] for name in ("tokenizer", "train_dir", "avoid_copying") if name in options}
    drawing = {name: value for name, value in options.items() if name not in names and name not in own}
    return GenerationRequest(**drawing), given, own


def generate_songs(
    output: Path,
    request: GenerationRequest,
    *,
    model: str | None = None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    tokenizer: str | None = None,
    given: GivenMusic | None = None,
    train_dir: Path | None = None,
    avoid_copying: bool = False,
    compare: bool = False,
    allow_base_mismatch: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> GenerationResult:
    """Generate pieces and write them as MIDI files; none is written unless all succeed.

    Args:
        output: `F.mid` or `F`; several pieces become `F-001.mid` and so on, the base's versions `F-base.mid`.
        request: settings; what is given below is added to them.
        model: base model, or None for the one that the adapters record.
        adapters: `PATH` or `PATH:STRENGTH`, any number.
        backend: `auto`, `mlx` or `torch`.
        tokenizer: overrides the model's own.
        given: files and options of what is given.
        train_dir: folder of the training songs, to measure copies of; None takes the copy indexes of the adapters.
        avoid_copying: draw pieces again that copy training songs.
        compare: also generate the base's version from the same seed.
        allow_base_mismatch: accept an adapter of another base.
        overwrite: replace files that exist.
        reporter: shows progress.

    Raises:
        MusicLoraError: the request, the model or the adapters do not fit.
    """
    output = complete_output(output, (".mid",), aliases=(".midi",))
    check_comparison(compare, adapters)
    given = given or GivenMusic()
    sources = {**given.files(), "--tokenizer": tokenizer}
    check_output_names(output, request.count, compare, sources, overwrite=overwrite)
    request, found = given.add_to(request)
    out = reporter or Reporter()
    opened = open_model(model, adapters, backend, tokenizer=tokenizer, allow_base_mismatch=allow_base_mismatch)
    generator = SongGenerator(opened, out, train_dir, avoid_copying=avoid_copying, compare=compare)
    result = generator.write(output_paths(output, request.count), request, given, overwrite=overwrite)
    return dataclasses.replace(result, notes=tuple(dict.fromkeys((*opened.notes, *found, *result.notes))))


class SongGenerator:
    """Model that is loaded once and writes pieces for one request after the other.

    Attributes:
        opened: model, tokenizer and adapters.
    """

    def __init__(
        self,
        opened: OpenedModel,
        out: Reporter,
        train_dir: Path | None = None,
        *,
        avoid_copying: bool = False,
        compare: bool = False,
    ) -> None:
        """Prepare the copy meter.

        Args:
            opened: model, tokenizer and adapters.
            out: shows progress.
            train_dir: folder of the training songs; None takes the copy indexes of the adapters.
            avoid_copying: draw pieces again that copy training songs.
            compare: also write the base's version of each piece.

        Raises:
            ConfigError: copies are to be avoided, and no training songs are known.
        """
        self.opened, self._out, self._compare = opened, out, compare
        self._meter = open_piece_meter(opened.adapters, train_dir, out)
        self._redraw = _redraw_rule(self._meter) if avoid_copying else None

    def write(
        self, paths: Sequence[Path], request: GenerationRequest, given: GivenMusic, *, overwrite: bool = False
    ) -> GenerationResult:
        """Generate pieces and write one to each path; none is written unless all succeed.

        Args:
            paths: a file for each piece of the request; the base's version is written beside it.
            request: settings, with what is given.
            given: options of what is given.
            overwrite: replace files that exist.

        Raises:
            MusicLoraError: the request does not fit the model, or a file cannot be written.
        """
        opened, meter, found = self.opened, self._meter, list[str]()
        check_tokens(opened.tokenizer, request)
        if request.instruments is None and given.instruments is None:
            request, found = _take_instruments(request, opened)
        request = dataclasses.replace(request, redraw=self._redraw)
        adapted = bool(opened.adapters)
        kinds = [("", "adapted" if adapted else "base", self._generate(request, adapted))]
        if self._compare:
            opened.model.set_adapter(False)
            kinds.append((BASE_MARK, "base", self._generate(request, False)))
            opened.model.set_adapter(True)
        files = []
        for mark, kind, pieces in kinds:
            for path, piece in zip((p.with_name(f"{p.stem}{mark}{p.suffix}") for p in paths), pieces, strict=True):
                piece.save(path, overwrite=overwrite)
                copies = meter.measure(path.name, piece.score, piece.given) if meter else None
                files.append(MidiFile(path, kind, piece, float(piece.score.to("second").end()), copies))
        remarks = [remark for file in files for remark in file.piece.remarks]
        notes = tuple(dict.fromkeys((*found, *(meter.notes if meter else ()), *remarks)))
        return GenerationResult(opened.backend, opened.base.name, files, notes)

    def _generate(self, request: GenerationRequest, adapted: bool) -> list[GeneratedPiece]:
        opened = self.opened
        request = dataclasses.replace(
            request, notes_at_once=opened.notes_at_once(adapted), loudness=opened.loudness(adapted)
        )
        with self._out.task("generating" if adapted or not opened.adapters else "generating with the base") as update:
            return generate_pieces(opened.model, opened.tokenizer, request, update)


def _take_instruments(request: GenerationRequest, opened: OpenedModel) -> tuple[GenerationRequest, list[str]]:
    """Restrict a request to the instruments of the training songs, and say so; base and adapted version alike."""
    programs = opened.programs & opened.tokenizer.holds.programs
    chosen = songs_instruments(programs, request.given_score)
    if chosen is None:
        return request, []
    held = chosen & opened.tokenizer.holds.programs
    return dataclasses.replace(request, instruments=held), [describe_instruments(programs)]


def _redraw_rule(meter: PieceMeter | None) -> Redraw:
    """Build the rule of --avoid-copying.

    Raises:
        ConfigError: no training songs are known.
    """
    if meter is None:
        raise ConfigError(
            f"--avoid-copying: no {COPY_INDEX} in the adapter's folder; give --train-dir with the training songs"
        )

    def find_copy(score: Score, given: Score | None) -> float | None:
        found = meter.measure("", score, given)
        return min(match.span[0] for match in found.copied_matches) if found.copied else None

    return Redraw(find_copy)
