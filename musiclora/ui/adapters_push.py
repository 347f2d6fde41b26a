"""Upload of an adapter to the Hub: the list of files first, then the upload itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from musiclora.errors import MusicLoraError
from musiclora.ui.adapters_work import describe_result, own_fields, push_arguments, push_list
from musiclora.ui.commands import CommandState, run_command
from musiclora.ui.make_inputs import OptionGrid
from musiclora.ui.state import Page
from musiclora.ui.status import error_status, status_text

if TYPE_CHECKING:
    from gradio.components import Component

_QUIET = {"api_visibility": "private", "show_progress": "hidden"}


def build_push(page: Page, adapter: Component, status: Component) -> None:
    """Add the controls of the upload to the page that is being built.

    Args:
        page: all that the tabs share.
        adapter: list whose value is the adapter to upload.
        status: line for progress and errors.
    """
    import gradio as gr

    fields = page.fields["push"]
    with gr.Accordion("Push to the Hub", open=False, elem_id="push-group"):
        repository = gr.Textbox(
            label="Name on the Hub",
            info="OWNER/NAME. The token is that of `hf auth login` or of HF_TOKEN; the page never asks for it.",
            max_lines=1,
            elem_id="push-name",
        )
        grid = OptionGrid(own_fields(fields), prefix="push-")
        with gr.Row():
            look = gr.Button("Show what would be uploaded", elem_id="push-list")
            push = gr.Button("Upload", variant="primary", interactive=False, elem_id="push")
        files = gr.Markdown(visible=False, elem_id="push-files")
    inputs = [adapter, repository, *grid.controls]
    shown = gr.State(())  # values that the list was made for

    def run(values: tuple[Any, ...], *, dry_run: bool) -> Iterator[CommandState]:
        label, name, *options = values
        words = push_arguments(page.workspace, fields, label, name, grid.read(options), dry_run=dry_run)
        with closing(run_command(words, page.workspace.root)) as states:
            yield from states

    def list_files(*values: Any) -> Iterator[tuple[Any, ...]]:
        hidden, state = gr.update(visible=False), CommandState()
        try:
            for state in run(values, dry_run=True):
                if state.code is None:
                    yield status_text(f"looking, {state.seconds:.0f} s. {state.line}"), gr.skip(), gr.skip(), gr.skip()
        except (MusicLoraError, OSError) as error:
            yield error_status(error), hidden, gr.update(interactive=False), ()
            return
        if state.failed:
            yield error_status(state.line), hidden, gr.update(interactive=False), ()
            return
        text = push_list(state.output)
        line = status_text("nothing was sent; Upload sends these files")
        yield line, gr.update(value=text, visible=bool(text)), gr.update(interactive=True), values

    def upload(listed: tuple[Any, ...], *values: Any) -> Iterator[tuple[Any, ...]]:
        state = CommandState()
        if tuple(listed) != values:
            yield error_status("the values have changed; look at the list again first"), gr.update(interactive=False)
            return
        try:
            for state in run(values, dry_run=False):
                if state.code is None:
                    yield status_text(f"uploading, {state.seconds:.0f} s. {state.line}"), gr.update(interactive=False)
        except (MusicLoraError, OSError) as error:
            yield error_status(error), gr.update(interactive=True)
            return
        if state.failed:
            yield error_status(state.line), gr.update(interactive=True)
            return
        yield status_text(f"uploaded; {describe_result(state.output)}"), gr.update(interactive=False)

    one = {"concurrency_limit": 1, "concurrency_id": "push"}
    look.click(list_files, inputs, [status, files, push, shown], **one, **_QUIET)
    push.click(upload, [shown, *inputs], [status, push], **one, **_QUIET)
