"""Tab Adapters: what was trained on what, and how well; blend, fuse, rename, push."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from musiclora.errors import MusicLoraError
from musiclora.ui.adapters_facts import HEADINGS, adapter_table, read_card, read_facts
from musiclora.ui.adapters_push import build_push
from musiclora.ui.adapters_work import (
    blend_arguments,
    describe_result,
    fuse_arguments,
    own_fields,
    rename_adapter,
    renamed_folder,
)
from musiclora.ui.commands import CommandState, run_command
from musiclora.ui.make_inputs import AdapterChoice, OptionGrid, read_adapters
from musiclora.ui.state import Page
from musiclora.ui.status import error_status, status_text

if TYPE_CHECKING:
    from gradio.components import Component
    from gradio.events import SelectData

_QUIET = {"api_visibility": "private", "show_progress": "hidden"}


class AdaptersTab:
    """Components of the tab, and the handlers behind them."""

    def __init__(self, page: Page) -> None:
        """Add the components of the tab to the page that is being built."""
        import gradio as gr

        self._page = page
        with gr.Row(equal_height=True):
            self._adapter = gr.Dropdown(
                page.workspace.adapter_folders(), value=None, label="Adapter", scale=4, elem_id="adapter"
            )
            again = gr.Button("Look again for adapters", scale=1, elem_id="refresh-adapters")
        self._status = gr.HTML(status_text(""), elem_id="adapters-status")
        self._table = gr.Dataframe(
            value=adapter_table(page.workspace),
            headers=list(HEADINGS),
            label="Adapters found; a click on a row chooses it",
            interactive=False,
            wrap=True,
            column_widths=["190px", "150px", "100px", "80px", "150px", "220px", "150px"],
            elem_id="adapters-table",
        )
        with gr.Accordion("Card of the chosen adapter", open=True, visible=False) as self._card_group:
            self._card = gr.Markdown(elem_id="adapter-card")
        self._build_merge("blend", "Blend several into one", blend_arguments)
        self._build_merge("fuse", "Fuse into the base: a model that needs no adapter", fuse_arguments)
        self._build_rename()
        if "push" in page.fields:
            build_push(page, self._adapter, self._status)
        shown = [self._card_group, self._card, self._status]
        self._adapter.change(self._show_card, self._adapter, shown, **_QUIET)
        self._adapter.focus(lambda: gr.update(choices=page.workspace.adapter_folders()), None, self._adapter, **_QUIET)
        # Gradio finds the event by this type, which is not imported at the head of this file
        _chosen_row.__annotations__["event"] = gr.SelectData
        self._table.select(_chosen_row, None, self._adapter, **_QUIET)
        again.click(self._look_again, None, [*self._lists, self._status], **_QUIET)
        gr.on([gr.context.Context.root_block.load], self._refresh, None, self._lists, **_QUIET)

    @property
    def _lists(self) -> list[Component]:
        return [self._table, self._adapter]

    def _refresh(self, chosen: str | None = None) -> tuple[Any, Any]:
        """Return the updates of table and list."""
        import gradio as gr

        rows = adapter_table(self._page.workspace)
        choices = [row[0] for row in rows]
        return gr.update(value=rows), gr.update(choices=choices, **({"value": chosen} if chosen else {}))

    def _look_again(self) -> tuple[Any, ...]:
        count = len(self._page.workspace.adapter_folders())
        return *self._refresh(), status_text(f"{count} adapters below {self._page.workspace.root}")

    def _show_card(self, label: str | None) -> tuple[Any, ...]:
        import gradio as gr

        if not label:
            return gr.update(visible=False), "", status_text("")
        try:
            facts, card = read_facts(self._page.workspace, label), read_card(self._page.workspace, label)
        except (MusicLoraError, OSError) as error:
            return gr.update(visible=False), "", error_status(error)
        line = status_text(
            f"{facts.label}: base {facts.base}; songs {facts.songs}; gain {facts.gain}; copies {facts.copies}"
        )
        return gr.update(visible=True), card, line

    def _build_merge(self, command: str, title: str, build: Callable[..., list[str]]) -> None:
        """Add the controls of a command that writes one thing from several adapters."""
        import gradio as gr

        with gr.Accordion(title, open=False, elem_id=f"{command}-group"):
            choice = AdapterChoice(self._page.workspace, f"{command}-adapters")
            name = gr.Textbox(
                label="Name of the new folder",
                info="It is made in the folder adapters of the page; nothing is replaced.",
                max_lines=1,
                elem_id=f"{command}-name",
            )
            grid = OptionGrid(own_fields(self._page.fields[command]), prefix=f"{command}-")
            button = gr.Button(command.capitalize(), variant="primary", elem_id=command)

        def run(*values: Any) -> Iterator[tuple[Any, ...]]:
            chosen, *strengths = values[: len(choice.inputs)]
            wanted, *options = values[len(choice.inputs) :]
            adapters = read_adapters(chosen, strengths)
            fields = self._page.fields[command]
            yield from self._run(lambda: build(self._page.workspace, fields, adapters, wanted, grid.read(options)))

        inputs = [*choice.inputs, name, *grid.controls]
        outputs = [self._status, *self._lists]
        button.click(run, inputs, outputs, concurrency_limit=1, concurrency_id="adapters", **_QUIET)

    def _run(self, build: Callable[[], Sequence[str]]) -> Iterator[tuple[Any, ...]]:
        """Run a command; yield the updates of status, table and list."""
        import gradio as gr

        stay, state = (gr.skip(), gr.skip()), CommandState()
        try:
            words = build()
            with closing(run_command(words, self._page.workspace.root)) as states:
                for state in states:
                    if state.code is None:
                        yield status_text(f"{words[0]}, {state.seconds:.0f} s. {state.line}"), *stay
        except (MusicLoraError, OSError) as error:
            yield error_status(error), *stay
            return
        if state.failed:
            yield error_status(state.line or f"musiclora {words[0]} ended with exit code {state.code}"), *stay
            return
        yield status_text(describe_result(state.output)), *self._refresh()

    def _build_rename(self) -> None:
        import gradio as gr

        with gr.Accordion("Rename", open=False, elem_id="rename-group"):
            note = gr.HTML(status_text("choose an adapter above first"), elem_id="rename-note")
            name = gr.Textbox(label="New name", max_lines=1, elem_id="rename-name")
            button = gr.Button("Rename", variant="primary", elem_id="rename")

        def describe(label: str | None) -> str:
            try:
                folder = renamed_folder(self._page.workspace, label)
            except (MusicLoraError, OSError):
                return status_text("choose an adapter above first")
            return status_text(f"renames the folder {self._page.workspace.label(folder)}")

        def rename(label: str | None, wanted: str | None) -> tuple[Any, ...]:
            try:
                new = rename_adapter(self._page.workspace, label, wanted)
            except (MusicLoraError, OSError) as error:
                return error_status(error), gr.skip(), gr.skip()
            return status_text(f"renamed to {new}"), *self._refresh(new)

        self._adapter.change(describe, self._adapter, note, **_QUIET)
        button.click(rename, [self._adapter, name], [self._status, *self._lists], **_QUIET)


def _chosen_row(event: SelectData) -> Any:
    """Return the label in the row that was clicked."""
    return event.row_value[0]


def build_adapters_tab(page: Page) -> None:
    """Add the components of the tab to the page that is being built."""
    AdaptersTab(page)
