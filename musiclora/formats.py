"""Suffixes of music files, and names of generated files."""

from __future__ import annotations

from pathlib import Path

BASE_MARK = "-base"  # `generate --compare` adds it to the names of files by the base alone

MIDI_SUFFIXES = (".mid", ".midi", ".kar")
ABC_SUFFIXES = (".abc",)
MUSIC_SUFFIXES = MIDI_SUFFIXES + ABC_SUFFIXES


def output_paths(output: Path, count: int, mark: str = "") -> list[Path]:
    """Name the output files: `F.mid`, or `F-001.mid` and so on for several; the mark stands before the suffix."""
    suffix = output.suffix or ".mid"
    numbers = [""] if count == 1 else [f"-{i:03d}" for i in range(1, count + 1)]
    return [output.with_name(f"{output.stem}{number}{mark}{suffix}") for number in numbers]
