"""Music of the symbolic demo: test songs continued by both models from the same seeds, as MIDI, sound and roll."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from symusic import Score

from musiclora.backends.base import TokenModel
from musiclora.errors import DataError
from musiclora.progress import Reporter
from musiclora.reporting.piano_roll import render_pianoroll
from musiclora.symbolic.decoding.excerpt import first_bars
from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.request import GeneratedPiece, GenerationRequest
from musiclora.symbolic.render import render_audio
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer


@dataclass(frozen=True)
class Sample:
    """One song continued by both models from the same draws, and its sound, None where nothing could render it."""

    name: str
    base: GeneratedPiece
    adapted: GeneratedPiece
    base_wav: Path | None
    adapted_wav: Path | None


def fullest_openings(songs: Sequence[tuple[str, Score]], bars: int, count: int) -> list[tuple[str, Score]]:
    """Choose the songs whose first bars have most instruments; of equal ones the first by name.

    Args:
        songs: names and scores.
        bars: of each song that count.
        count: number of songs to choose.
    """

    def instruments(song: tuple[str, Score]) -> int:
        opening, _ = first_bars(song[1], bars)
        return len({(track.program, track.is_drum) for track in opening.tracks if len(track.notes)})

    return sorted(sorted(songs, key=lambda song: song[0]), key=instruments, reverse=True)[:count]


def make_samples(
    model: TokenModel,
    tokenizer: SymbolicTokenizer,
    folder: Path,
    prompts: Sequence[tuple[str, GenerationRequest]],
    out: Reporter,
) -> list[Sample]:
    """Continue songs by the base and by the adapted model from the same draws, as MIDI, WAV and PNG files.

    Args:
        model: with its adapter injected.
        tokenizer: the model's.
        folder: where the files go.
        prompts: name of the song that each piece continues, and the settings.
        out: told what happens.
    """
    made: dict[str, list[GeneratedPiece]] = {"adapted": [], "base": []}
    for kind, pieces in made.items():
        model.set_adapter(kind == "adapted")
        for number, (_, request) in enumerate(prompts, 1):
            with out.task(f"generating, {kind}, {number} of {len(prompts)}") as update:
                pieces += generate_pieces(model, tokenizer, request, update)
    model.set_adapter(True)
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number, (base, adapted, (name, request)) in enumerate(
        zip(made["base"], made["adapted"], prompts, strict=True), 1
    ):
        sounds = [
            _write_piece(piece, folder / f"{number:02d}-{kind}", out)
            for kind, piece in (("base", base), ("adapted", adapted))
        ]
        samples.append(Sample(f"after {request.prompt_bars} bars of {name}", base, adapted, sounds[0], sounds[1]))
    return samples


def _write_piece(piece: GeneratedPiece, stem: Path, out: Reporter) -> Path | None:
    """Write MIDI, piano roll and sound; return the sound's path, None where nothing could render it."""
    midi, wav = stem.with_suffix(".mid"), stem.with_suffix(".wav")
    piece.save(midi)
    render_pianoroll(piece.score, stem.with_suffix(".png"), stem.name)
    try:
        render_audio(midi, wav)
    except DataError as error:  # no soundfont or engine: the music is still there to see
        out.say(f"no sound: {error}")
        return None
    return wav
