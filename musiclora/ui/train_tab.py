"""Tab Train: the form of a training with its plan, and the page's view of a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from musiclora.errors import MusicLoraError
from musiclora.training.config import list_presets
from musiclora.ui.commands import run_command
from musiclora.ui.form import option_controls
from musiclora.ui.run_view import build_run_view
from musiclora.ui.runs import Launcher
from musiclora.ui.state import Page
from musiclora.ui.status import error_status, status_text
from musiclora.ui.training_form import (
    BUNDLED_BASES,
    folded_fields,
    front_fields,
    suggest_name,
    training_arguments,
)

if TYPE_CHECKING:
    from gradio.components import Component


@dataclass(frozen=True)
class _Form:
    """Controls of the training form."""

    songs: Component
    base: Component
    preset: Component
    name: Component
    options: list[Component]

    @property
    def controls(self) -> list[Component]:
        return [self.songs, self.base, self.preset, self.name, *self.options]


def build_train_tab(page: Page, folder: Component, best: Component) -> None:
    """Add the components of the tab to the page that is being built.

    Args:
        page: all that the tabs share.
        folder: the folder that was chosen in the tab Songs, which is offered here.
        best: the base that fits it.
    """
    import gradio as gr

    workspace, launcher = page.workspace, Launcher(page.workspace)
    all_fields = page.fields["train"]
    fields = [*front_fields(all_fields), *folded_fields(all_fields)]
    with gr.Accordion("New training", open=not workspace.run_folders()):
        form = _build_form(page)
        with gr.Row():
            look = gr.Button("Show the plan", elem_id="show-plan")
            train = gr.Button("Train", variant="primary", elem_id="train")
        status = gr.HTML(status_text(""), elem_id="train-status")
        plan = gr.Markdown(visible=False, elem_id="plan")
    view = build_run_view(page, launcher)

    def words(values: tuple[Any, ...]) -> list[str]:
        songs, base, preset, name, *options = values
        given = {field.name: value for field, value in zip(fields, options, strict=True)}
        return training_arguments(workspace, songs, base, preset, name, fields, given)

    def show_plan(*values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            state = None
            for state in run_command(["train", *words(values), "--dry-run"], workspace.root):
                if state.code is None:
                    yield status_text(f"planning, {state.seconds:.0f} s. {state.line}"), gr.update()
            if state is None or state.failed:
                yield error_status(state.line if state else "no plan"), gr.update(visible=False)
                return
            yield status_text(""), gr.update(value=_plan_text(state.output, words(values)), visible=True)
        except (MusicLoraError, OSError) as error:
            yield error_status(error), gr.update(visible=False)

    def start(*values: Any) -> tuple[Any, ...]:
        try:
            arguments = words(values)
            folder = workspace.new_folder(workspace.runs, values[3], "run")
            launcher.start(folder, arguments)
        except (MusicLoraError, OSError) as error:
            return error_status(error), gr.update(), gr.update()
        label = workspace.label(folder)
        runs = list(dict.fromkeys([label, *workspace.run_folders()]))
        line = status_text(f"started: musiclora train {shlex.join(arguments)}")
        return line, gr.update(choices=runs, value=label), suggest_name(workspace, values[0])

    look.click(
        show_plan, form.controls, [status, plan], api_visibility="private", concurrency_limit=1, concurrency_id="plan"
    )
    train.click(start, form.controls, [status, view.run, form.name], api_visibility="private").then(
        view.refresh, view.inputs, view.outputs, api_visibility="private"
    )
    form.songs.change(lambda songs: suggest_name(workspace, songs), form.songs, form.name, api_visibility="private")
    folder.change(
        lambda songs: gr.update(choices=workspace.music_folders(), value=songs),
        folder,
        form.songs,
        api_visibility="private",
    )
    best.change(lambda base: gr.update(value=base) if base else gr.skip(), best, form.base, api_visibility="private")
    form.songs.focus(lambda: gr.update(choices=workspace.music_folders()), None, form.songs, api_visibility="private")


def _build_form(page: Page) -> _Form:
    import gradio as gr

    workspace = page.workspace
    folders = workspace.music_folders()
    first = folders[0] if folders else None
    with gr.Row():
        songs = gr.Dropdown(
            folders,
            value=first,
            label="Songs",
            info="Folder of songs or recordings.",
            allow_custom_value=True,
            elem_id="train-songs",
        )
        base = gr.Dropdown(
            [*BUNDLED_BASES, *workspace.model_folders()],
            value=BUNDLED_BASES[0],
            label="Base",
            info="A bundled one, a folder, or a name on the Hub. The tab Songs says which one fits.",
            allow_custom_value=True,
            elem_id="base",
        )
    with gr.Row():
        preset = gr.Dropdown(
            [("none", ""), *((f"{name}: {text}", name) for name, text in list_presets().items())],
            value="bundled",
            label="Preset",
            info="Options that go together.",
            elem_id="preset",
        )
        name = gr.Textbox(suggest_name(workspace, first), label="Name of the run", max_lines=1, elem_id="run-name")
    options = option_controls(front_fields(page.fields["train"]))
    with gr.Accordion("More options", open=False):
        options += option_controls(folded_fields(page.fields["train"]))
    return _Form(songs, base, preset, name, options)


def _plan_text(plan: dict[str, Any], words: list[str]) -> str:
    """Format the plan as Markdown: steps, minutes, memory, warnings, and the command."""
    lines = [line.strip().removeprefix("plan: ") for line in plan["lines"]]
    text = "\n".join(f"* {line}" for line in lines)
    return f"**Plan**\n\n{text}\n\nThe same on the command line:\n\n    musiclora train {shlex.join(words)}\n"
