"""Music that a piece begins from: a prompt, or a recording with a span to generate again."""

from __future__ import annotations

import filecmp
import math
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiclora.errors import ConfigError, MusicLoraError
from musiclora.formats import MUSIC_SUFFIXES, RECORDING_SUFFIXES
from musiclora.ui.make_inputs import OptionGrid
from musiclora.ui.music_view import piece_player, view_piece
from musiclora.ui.options import OptionField
from musiclora.ui.state import Page
from musiclora.ui.status import error_status, status_text
from musiclora.ui.workspace import Workspace

if TYPE_CHECKING:
    from gradio.components import Component

_MOST_FILES = 2_000  # of a list on the page
_BAR_STYLE = """
.span-bar { position: relative; height: 14px; border-radius: 4px; background: #a8a29e; }
.span-bar i { position: absolute; top: 0; bottom: 0; border-radius: 4px; background: #b45309; }
"""
_QUIET = {"api_visibility": "private", "show_progress": "hidden"}


def list_music(workspace: Workspace, suffixes: Collection[str]) -> list[str]:
    """List the music files of the workspace that end in one of the suffixes, by label."""
    found = [
        workspace.label(path)
        for label in workspace.music_folders()
        for path in sorted((workspace.root / label).iterdir())
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
    ]
    return found[:_MOST_FILES]


def keep_file(workspace: Workspace, file: Path, suffixes: Collection[str]) -> str:
    """Copy a dropped file into the folder `given` of the workspace, under a name that is free; return its label.

    Raises:
        ConfigError: it is no file of the wanted kind.
    """
    if file.suffix.lower() not in suffixes:
        raise ConfigError(f"{file.name}: expected a file that ends in {', '.join(sorted(suffixes))}")
    folder = workspace.root / "given"
    folder.mkdir(parents=True, exist_ok=True)
    target, number = folder / file.name, 1
    while target.exists() and not filecmp.cmp(file, target, shallow=False):
        number += 1
        target = folder / f"{file.stem}-{number}{file.suffix}"
    if not target.exists():
        partial = target.with_name(f".{target.name}.part")
        shutil.copyfile(file, partial)
        partial.replace(target)
    return workspace.label(target)


def recording_seconds(path: Path) -> float:
    """Return the length of a recording.

    Raises:
        ConfigError: it cannot be read, or the package that reads it is missing.
    """
    try:
        import soundfile
    except ModuleNotFoundError as error:
        raise ConfigError("recordings need further packages: pip install 'musiclora[audio]'") from error
    try:
        return float(soundfile.info(str(path)).duration)
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"{path.name}: cannot be read as a recording") from error


def span_bar(start: float, end: float, seconds: float) -> str:
    """Return a bar of the recording's length in which the span is marked, as HTML."""
    left, right = (max(0.0, min(100.0, 100 * second / (seconds or 1))) for second in (start, end))
    if right <= left:
        return status_text("the end must lie behind the start")
    bar = f'<div class="span-bar" aria-hidden="true"><i style="left:{left:.2f}%;width:{right - left:.2f}%"></i></div>'
    return bar + status_text(f"{start:.1f} to {end:.1f} s of {seconds:.1f} s are generated again; the rest stays")


@dataclass(frozen=True)
class GivenControls:
    """Controls of prompt and recording.

    Attributes:
        prompt_group, recording_group: shown for the architectures that take them.
        options: options of the prompt.
        inputs: prompt, recording, if a span is generated again, its start and end.
    """

    prompt_group: Any
    recording_group: Any
    options: OptionGrid
    inputs: list[Component]


def build_given(page: Page, fields: Sequence[OptionField], status: Component) -> GivenControls:
    """Add the controls of prompt and recording to the page that is being built.

    Args:
        page: all that the tabs share.
        fields: options of the prompt.
        status: line for errors.
    """
    import gradio as gr

    with gr.Accordion("Prompt: a song to continue", open=False, elem_id="prompt-group") as prompt_group:
        prompt = _chooser(page.workspace, MUSIC_SUFFIXES, "Song to continue", "prompt", status)
        options = OptionGrid(fields, prefix="make-")
    with gr.Accordion("Recording to continue or repaint", open=False, elem_id="recording-group") as recording_group:
        recording = _chooser(page.workspace, RECORDING_SUFFIXES, "Recording", "recording", status)
        span = _build_span(page, recording, status)
    return GivenControls(prompt_group, recording_group, options, [prompt, recording, *span])


def _chooser(workspace: Workspace, suffixes: Collection[str], label: str, name: str, status: Component) -> Component:
    """Add a list of the workspace's files, and a place to drop another one."""
    import gradio as gr

    with gr.Row(equal_height=False):
        choice = gr.Dropdown(
            [("none", ""), *list_music(workspace, suffixes)],
            value="",
            label=label,
            info="Of the page's folder.",
            elem_id=name,
        )
        drop = gr.File(
            label="Or drop a file here",
            file_count="single",
            file_types=sorted(suffixes),
            height=140,
            elem_id=f"{name}-drop",
        )

    def choices() -> list[Any]:
        return [("none", ""), *list_music(workspace, suffixes)]

    def take(file: str | None) -> tuple[Any, ...]:
        if not file:
            return gr.skip(), gr.skip(), gr.skip()
        try:
            kept = keep_file(workspace, Path(file), suffixes)
        except (MusicLoraError, OSError) as error:
            return gr.skip(), None, error_status(error)
        return gr.update(choices=choices(), value=kept), None, status_text(f"kept as {kept}")

    drop.upload(take, drop, [choice, drop, status], **_QUIET)
    choice.focus(lambda: gr.update(choices=choices()), None, choice, **_QUIET)
    return choice


def _build_span(page: Page, recording: Component, status: Component) -> list[Component]:
    """Add the recording's player and the marks of a span; return switch, start and end."""
    import gradio as gr

    player = piece_player("The recording", "recording-sound", visible=False)
    with gr.Group(visible=False) as group:
        again = gr.Checkbox(False, label="Generate a span of it again", elem_id="repaint")
        bar = gr.HTML("", css_template=_BAR_STYLE, padding=True, elem_id="repaint-bar")
        with gr.Row():
            start = gr.Slider(0, 1, 0, step=0.1, label="Start of the span in seconds", elem_id="repaint-start")
            end = gr.Slider(0, 1, 1, step=0.1, label="End of the span in seconds", elem_id="repaint-end")

    def show(label: str) -> tuple[Any, ...]:
        if not label:
            return gr.update(visible=False, value=None), gr.update(visible=False), *(gr.skip(),) * 3, status_text("")
        try:
            path = page.workspace.inside(label, "recording")
            seconds, view = recording_seconds(path), view_piece(path, page.cache)
        except (MusicLoraError, OSError) as error:
            return gr.skip(), gr.update(visible=False), *(gr.skip(),) * 3, error_status(error)
        most = math.ceil(10 * seconds) / 10
        marks = [gr.update(maximum=most, value=round(value, 1)) for value in (seconds / 3, seconds * 2 / 3)]
        sound = gr.update(value=str(view.sound), visible=True)
        return sound, gr.update(visible=True), False, *marks, status_text("")

    def mark(wanted: bool, first: float, last: float, label: str) -> str:
        if not wanted or not label:
            return ""
        try:
            return span_bar(first, last, recording_seconds(page.workspace.inside(label, "recording")))
        except (MusicLoraError, OSError) as error:
            return error_status(error)

    recording.change(show, recording, [player, group, again, start, end, status], **_QUIET)
    gr.on([again.change, start.change, end.change], mark, [again, start, end, recording], bar, **_QUIET)
    return [again, start, end]
