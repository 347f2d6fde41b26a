"""Pieces as files for other programs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from musiclora.errors import ConfigError
from musiclora.formats import MIDI_SUFFIXES, MUSIC_SUFFIXES
from musiclora.ui.commands import finish_command
from musiclora.ui.music_view import cached_copy
from musiclora.ui.options import OptionField
from musiclora.ui.workspace import Workspace

_FORMATS = {"MIDI": ".mid", "WAV": ".wav", "MusicXML": ".musicxml", "ABC": ".abc", "FLAC": ".flac"}


def download_formats(render_fields: Sequence[OptionField]) -> list[str]:
    """List the formats that `musiclora render` writes, by the help of its option `--output`."""
    text = next((field.help for field in render_fields if field.name == "output"), "")
    return [name for name, suffix in _FORMATS.items() if suffix in text]


def piece_formats(render_fields: Sequence[OptionField], piece: Path) -> list[str]:
    """List the formats that a piece can be written in: those of `musiclora render`, or a recording's own."""
    suffix = piece.suffix.lower()
    if suffix in MUSIC_SUFFIXES:
        return download_formats(render_fields)
    return [name for name, own in _FORMATS.items() if own == suffix] or [suffix.lstrip(".").upper()]


def prepare_download(workspace: Workspace, piece: Path, name: str | None, cache: Path) -> tuple[Path, Sequence[str]]:
    """Write a piece in another format into the cache.

    Args:
        workspace: the page's folder.
        piece: MIDI file or recording.
        name: a format of `download_formats`.
        cache: folder that the page serves.

    Returns:
        The file, and remarks on what it does not hold.

    Raises:
        ConfigError: the piece cannot be written so; the message is the reason.
    """
    if name not in _FORMATS:
        raise ConfigError("choose a format first")
    suffix, own = _FORMATS[name], piece.suffix.lower()
    cache.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(dir=cache)) / f"{piece.stem}{suffix}"
    if own == suffix or (own in MIDI_SUFFIXES and suffix in MIDI_SUFFIXES):
        return cached_copy(piece, target), ()
    if own not in MUSIC_SUFFIXES:
        raise ConfigError(
            f"{piece.name} is a recording and has no notes to write as {name}; its own format is {own[1:]}"
        )
    result: dict[str, Any] = finish_command(
        ["render", f"./{workspace.label(piece)}", f"--output={target}"], workspace.root
    )
    return target, result.get("remarks") or ()
