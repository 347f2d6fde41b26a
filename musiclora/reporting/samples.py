"""Section of samples that a run wrote: piano rolls of MIDI files, players of WAV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from musiclora.reporting.figure import figure_png
from musiclora.reporting.html import audio_player, figure_box, image_tag, section, side_by_side
from musiclora.reporting.inline_audio import small_waves
from musiclora.reporting.piano_roll import pianoroll_figure, roll_of, shared_limits


def sample_section(paths: Sequence[Path]) -> str:
    """Return the samples of a run from one seed, in order; empty without any.

    Args:
        paths: `base` and `epoch-NNN`, as .mid or .wav.
    """
    figures = [*_rolls([p for p in paths if p.suffix == ".mid"]), *_players([p for p in paths if p.suffix == ".wav"])]
    return section("Samples", side_by_side("From the same random draws", figures)) if figures else ""


def _title(path: Path) -> str:
    return "the base" if path.stem == "base" else f"after epoch {path.stem.rpartition('-')[2].lstrip('0')}"


def _rolls(paths: Sequence[Path]) -> list[str]:
    """Return piano rolls with common axes, without files that hold no note."""
    if not paths:
        return []
    from symusic import Score

    rolls = [(path, roll_of(Score(path))) for path in paths]
    rolls = [(path, roll) for path, roll in rolls if len(roll.start)]
    if not rolls:
        return []
    limits = shared_limits([roll for _, roll in rolls])
    pictures = [
        figure_png(pianoroll_figure([("", roll)], limits, line_quarters=16.0, width=4.9), dpi=130) for _, roll in rolls
    ]
    return [
        figure_box(image_tag(picture, f"Piano roll of the sample {_title(path)}"), _title(path), path.name)
        for (path, _), picture in zip(rolls, pictures, strict=True)
    ]


def _players(paths: Sequence[Path]) -> list[str]:
    return [
        figure_box(audio_player(wave, f"sample {_title(path)}"), _title(path), path.name)
        for path, wave in zip(paths, small_waves(paths), strict=True)
    ]
