"""Pictures and sound of a piece for the page, made once and kept in its cache."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from musiclora.errors import MusicLoraError
from musiclora.formats import MUSIC_SUFFIXES

if TYPE_CHECKING:
    from gradio.components import Component

_LOCK = threading.Lock()  # two tabs that show one piece must not render it twice


@dataclass(frozen=True)
class PieceView:
    """Picture and sound of one piece.

    Attributes:
        roll: PNG of the piano roll; None for recordings and where it cannot be drawn.
        sound: WAV or the recording itself; None where it cannot be rendered.
        problem: why one of them is missing; empty where nothing is.
    """

    roll: Path | None = None
    sound: Path | None = None
    problem: str = ""


def piece_roll(label: str, elem_id: str, *, visible: bool = True) -> Component:
    """Build a picture for a piano roll inside the page that is being built."""
    import gradio as gr

    return gr.Image(
        label=label,
        show_label=False,  # it would lie over the picture
        interactive=False,
        visible=visible,
        buttons=["download", "fullscreen"],
        elem_classes="rolls",
        elem_id=elem_id,
    )


def piece_player(label: str, elem_id: str, *, visible: bool = True) -> Component:
    """Build a player for a piece inside the page that is being built."""
    import gradio as gr

    return gr.Audio(label=label, interactive=False, visible=visible, buttons=["download"], elem_id=elem_id)


def view_piece(path: Path, cache: Path) -> PieceView:
    """Draw and render a piece, or take both from the cache.

    Args:
        path: MIDI, ABC or a recording.
        cache: folder that the pictures are kept in.
    """
    if path.suffix.lower() not in MUSIC_SUFFIXES:
        return PieceView(sound=path)
    from musiclora.symbolic.render import render_file

    name, problems = _cache_name(path), []
    made: dict[str, Path | None] = {}
    with _LOCK:
        for suffix in (".png", ".wav"):
            target = cache / f"{name}{suffix}"
            made[suffix] = target
            if target.exists():
                continue
            try:
                render_file(path, target)
            except MusicLoraError as error:
                made[suffix] = None
                problems.append(str(error))
    return PieceView(made[".png"], made[".wav"], "; ".join(dict.fromkeys(problems)))


def _cache_name(path: Path) -> str:
    """Return a file name that holds as long as the piece is unchanged, and begins with the piece's name."""
    facts = path.stat()
    key = f"{path.resolve()}|{facts.st_mtime_ns}|{facts.st_size}"
    return f"{path.stem[:60]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
