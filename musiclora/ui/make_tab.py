"""Tab Make: new pieces by adapters or a base, base and adapted from the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from musiclora.bundled import BUNDLED_MODELS
from musiclora.errors import MusicLoraError
from musiclora.ui.commands import CommandState
from musiclora.ui.make_form import PieceRequest, folded_fields, front_fields, prompt_fields
from musiclora.ui.make_given import GivenControls, build_given
from musiclora.ui.make_inputs import AdapterChoice, OptionGrid, read_adapters
from musiclora.ui.make_models import fields_for, find_architecture
from musiclora.ui.make_pieces import Piece, list_pieces, make_piece
from musiclora.ui.make_view import PiecesView
from musiclora.ui.state import Page
from musiclora.ui.status import error_status, status_text

if TYPE_CHECKING:
    from gradio.components import Component

_QUIET = {"api_visibility": "private", "show_progress": "hidden"}
_ADAPTERS_BASE = "as the adapters record"


@dataclass(frozen=True)
class _Form:
    """Controls of the form."""

    adapters: AdapterChoice
    base: Component
    given: GivenControls
    front: OptionGrid
    folded: OptionGrid

    @property
    def grids(self) -> list[OptionGrid]:
        return [self.given.options, self.front, self.folded]

    @property
    def inputs(self) -> list[Component]:
        options = [control for grid in self.grids for control in grid.controls]
        return [*self.adapters.inputs, self.base, *self.given.inputs, *options]

    def read(self, values: Sequence[Any]) -> PieceRequest:
        """Build the request from the values of `inputs`."""
        rest = list(values)

        def take(count: int) -> list[Any]:
            taken, rest[:] = rest[:count], rest[count:]
            return taken

        chosen, *strengths = take(len(self.adapters.inputs))
        (base,) = take(1)
        prompt, recording, again, start, end = take(len(self.given.inputs))
        options = {name: value for grid in self.grids for name, value in grid.read(take(len(grid.fields))).items()}
        span = (float(start), float(end)) if again and recording else None
        adapters = read_adapters(chosen, strengths)
        return PieceRequest(base or "", adapters, prompt or "", recording or "", span, options)


def build_make_tab(page: Page) -> None:
    """Add the components of the tab to the page that is being built."""
    import gradio as gr

    status = gr.HTML(status_text(""), elem_id="make-status", render=False)
    form = _build_form(page, status)
    with gr.Row():
        make = gr.Button("Make", variant="primary", elem_id="make")
        cancel = gr.Button("Cancel", interactive=False, elem_id="cancel")
    status.render()
    view = PiecesView(page)
    buttons: list[Component] = [make, cancel]
    waiting = make.click(
        lambda: (status_text("waiting until other pieces are made"), *_buttons(True)),
        None,
        [status, *buttons],
        queue=False,
        **_QUIET,
    )
    running = waiting.then(
        _maker(page, form),
        form.inputs,
        [status, view.piece, *buttons],
        api_visibility="private",
        show_progress="hidden",
        concurrency_limit=1,
        concurrency_id="make",
    )
    # the buttons are set afterwards: the last state of the run that is cancelled may still be on its way
    cancel.click(None, None, None, cancels=[running], **_QUIET).then(
        lambda: (status_text("cancelled; nothing was kept"), *_buttons(False)), None, [status, *buttons], **_QUIET
    )


def _maker(page: Page, form: _Form) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """Return the handler that makes a piece: it yields status, list of pieces, and the two buttons."""
    import gradio as gr

    def make(*values: Any) -> Iterator[tuple[Any, ...]]:
        yield status_text("starting"), gr.skip(), *_buttons(True)
        try:
            with closing(make_piece(page.workspace, page.fields["generate"], form.read(values))) as states:
                for found in states:
                    if isinstance(found, CommandState):
                        yield status_text(f"making, {found.seconds:.0f} s. {found.line}"), gr.skip(), *_buttons(True)
        except (MusicLoraError, OSError) as error:
            yield error_status(error), gr.skip(), *_buttons(False)
            return
        if isinstance(found, Piece):
            pieces = gr.update(choices=list_pieces(page.workspace), value=found.label, visible=True)
            yield status_text(f"made: {found.label}"), pieces, *_buttons(False)

    return make


def _buttons(is_running: bool) -> tuple[Any, Any]:
    """Return the updates of Make and Cancel."""
    import gradio as gr

    return gr.update(interactive=not is_running), gr.update(interactive=is_running)


def _build_form(page: Page, status: Component) -> _Form:
    import gradio as gr

    workspace, fields = page.workspace, page.fields["generate"]
    found = workspace.adapter_folders()[:1]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            adapters = AdapterChoice(workspace, "adapters", value=found)
        with gr.Column(scale=1, min_width=240):
            base = gr.Dropdown(
                _base_choices(page),
                value="" if found else next(iter(BUNDLED_MODELS)),
                label="Base",
                info="Without an adapter: the base alone. A bundled one, a folder, or a name on the Hub.",
                allow_custom_value=True,
                elem_id="make-base",
            )
    given = build_given(page, prompt_fields(fields), status)
    front = OptionGrid(front_fields(fields), prefix="make-")
    with gr.Accordion("More options", open=False, elem_id="make-more"):
        folded = OptionGrid(folded_fields(fields), prefix="make-")
    form = _Form(adapters, base, given, front, folded)

    def show_options(chosen: list[str] | None, name: str | None) -> list[Any]:
        spec = find_architecture(workspace, name, chosen or [])
        shown = {field.name for field in fields_for(fields, spec)}
        groups = [gr.update(visible="prompt" in shown), gr.update(visible="init_audio" in shown)]
        return [*groups, *(update for grid in form.grids for update in grid.show(shown))]

    columns = [column for grid in form.grids for column in grid.columns]
    gr.on(
        [adapters.chosen.change, base.change, gr.context.Context.root_block.load],
        show_options,
        [adapters.chosen, base],
        [given.prompt_group, given.recording_group, *columns],
        **_QUIET,
    )
    base.focus(lambda: gr.update(choices=_base_choices(page)), None, base, **_QUIET)
    return form


def _base_choices(page: Page) -> list[Any]:
    return [(_ADAPTERS_BASE, ""), *BUNDLED_MODELS, *page.workspace.model_folders()]
