"""Music of the symbolic demo: pieces of both models from the same seeds, as MIDI, sound and piano roll."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from musiclora.backends.base import TokenModel
from musiclora.errors import DataError
from musiclora.progress import Reporter
from musiclora.reporting.piano_roll import render_pianoroll
from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.request import GeneratedPiece, GenerationRequest
from musiclora.symbolic.render import render_audio
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer


@dataclass(frozen=True)
class Sample:
    """One piece from one seed by both models, and its sound, None where nothing could render it."""

    name: str
    base: GeneratedPiece
    adapted: GeneratedPiece
    base_wav: Path | None
    adapted_wav: Path | None


def make_samples(
    model: TokenModel, tokenizer: SymbolicTokenizer, folder: Path, seed: int, count: int, tokens: int, out: Reporter
) -> list[Sample]:
    """Generate pieces from the same seeds by the base and by the adapted model, as MIDI, WAV and PNG files.

    Args:
        model: with its adapter injected.
        tokenizer: the model's.
        folder: where the files go.
        seed: of the draws.
        count: pieces by each model.
        tokens: longest piece.
        out: told what happens.
    """
    request = GenerationRequest(max_new_tokens=tokens, temperature=1.0, top_k=50, top_p=0.95, seed=seed, count=count)
    made: dict[str, Sequence[GeneratedPiece]] = {}
    for kind, on in (("adapted", True), ("base", False)):
        model.set_adapter(on)
        with out.task(f"generating, {kind}") as update:
            made[kind] = generate_pieces(model, tokenizer, request, update)
    model.set_adapter(True)
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number, (base, adapted) in enumerate(zip(made["base"], made["adapted"], strict=True), 1):
        sounds = [
            _write_piece(made[kind][number - 1], folder / f"{number:02d}-{kind}", out) for kind in ("base", "adapted")
        ]
        samples.append(Sample(f"seed {seed}, piece {number}", base, adapted, sounds[0], sounds[1]))
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
