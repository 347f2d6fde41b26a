"""Section of samples that a run wrote: piano rolls of MIDI files, players of WAV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from musiclora.reporting.figure import figure_png
from musiclora.reporting.html import audio_player, figure_box, image_tag, paragraphs, section, side_by_side
from musiclora.reporting.inline_audio import small_waves
from musiclora.reporting.lanes import list_instruments, shared_limits
from musiclora.reporting.piano_roll import pianoroll_figure
from musiclora.reporting.roll import roll_of

HALF_PAGE = {"line_quarters": 16.0, "width": 4.9, "most_inches": 20.0}  # size of one of two pictures side by side

MARKED_WORDS = "Yellow bars agree with a training song, longer than chance explains."
Span = tuple[float, float]


def sample_section(paths: Sequence[Path], copied: Mapping[Path, Sequence[Span]] | None = None) -> str:
    """Return the samples of a run from one seed, in order; empty without any.

    Args:
        paths: `base` and `epoch-NNN`, as .mid, .wav or both.
        copied: first and last onset in quarter notes of passages that copy training songs, by .mid file.
    """
    rolls = _rolls([path for path in paths if path.suffix == ".mid"], copied or {})
    players = _players([path for path in paths if path.suffix == ".wav"])
    shown = [path for path in paths if path in rolls or (path in players and path.with_suffix(".mid") not in rolls)]
    figures = [
        figure_box(rolls.get(path, "") + players.get(path.with_suffix(".wav"), ""), _title(path), path.name)
        for path in shown
    ]
    words = paragraphs([MARKED_WORDS]) if any((copied or {}).values()) else ""
    return section("Samples", words + side_by_side("From the same random draws", figures)) if figures else ""


def _title(path: Path) -> str:
    return "the base" if path.stem == "base" else f"after epoch {path.stem.rpartition('-')[2].lstrip('0')}"


def _rolls(paths: Sequence[Path], copied: Mapping[Path, Sequence[Span]]) -> Mapping[Path, str]:
    """Return piano rolls with common axes by path, without files that hold no note."""
    if not paths:
        return {}
    from symusic import Score

    rolls = {path: roll for path in paths if (roll := roll_of(Score(path), copied.get(path, ()))).count}
    if not rolls:
        return {}
    limits = shared_limits(list(rolls.values()))
    pictures = {}
    for path, roll in rolls.items():
        picture = figure_png(pianoroll_figure([("", roll)], limits, **HALF_PAGE), dpi=130)
        words = f": {', '.join(list_instruments(roll))}" if limits.has_lanes else ""
        pictures[path] = image_tag(picture, f"Piano roll of the sample {_title(path)}{words}")
    return pictures


def _players(paths: Sequence[Path]) -> Mapping[Path, str]:
    waves = small_waves(paths) if paths else []
    return {path: audio_player(wave, f"sample {_title(path)}") for path, wave in zip(paths, waves, strict=True)}
