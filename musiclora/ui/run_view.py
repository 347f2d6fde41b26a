"""View of one run on the page: progress, curve, verdict, samples; it only reads the run folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiclora.errors import MusicLoraError
from musiclora.ui.curves import COLOURS, loss_table
from musiclora.ui.music_view import piece_player, piece_roll, view_piece
from musiclora.ui.runs import Launcher, RunState
from musiclora.ui.state import Page
from musiclora.ui.status import error_status, status_text

if TYPE_CHECKING:
    from gradio.components import Component

_STEPS = re.compile(r"^training: (\d+) of (\d+)")
_SECONDS = 2.0  # between two looks at the run folder


@dataclass(frozen=True)
class RunView:
    """Controls of the view, and the function that fills them.

    Attributes:
        run: choice of the run.
        inputs: what `refresh` is given.
        outputs: what it fills.
        refresh: reads the chosen run.
    """

    run: Component
    inputs: list[Component]
    outputs: list[Component]
    refresh: Callable[..., tuple[Any, ...]]


@dataclass(frozen=True)
class _Seen:
    """What a tab of the browser shows already, so that an unchanged run is not drawn again.

    Attributes:
        label: the run.
        state: as it was read last.
        latest: run and name of the latest sample.
    """

    label: str = ""
    state: RunState | None = None
    latest: str = ""

    @classmethod
    def of(cls, label: str, state: RunState) -> _Seen:
        return cls(label, state, _latest_sample(label, state))

    def shows(self, label: str, state: RunState) -> bool:
        return self.label == label and self.state == state


def _latest_sample(label: str, state: RunState) -> str:
    return f"{label}/{state.samples[-1].stem}" if state.samples else f"{label}/"


def build_run_view(page: Page, launcher: Launcher) -> RunView:
    """Add the view of a run to the page that is being built."""
    import gradio as gr

    workspace = page.workspace
    with gr.Row(equal_height=True):
        run = gr.Dropdown(
            workspace.run_folders(), value=None, label="Run", allow_custom_value=True, scale=4, elem_id="run"
        )
        stop = gr.Button("Stop (saves)", scale=1, interactive=False, elem_id="stop")
        resume = gr.Button("Resume", scale=1, interactive=False, elem_id="resume")
    headline = gr.HTML(status_text(""), elem_id="run-status")
    answer = gr.HTML(status_text(""), elem_id="run-answer")
    curve = gr.LinePlot(
        x="step",
        y="loss",
        color="curve",
        color_map=COLOURS,
        title="Loss by optimiser step",
        height=280,
        visible=False,
        elem_id="curve",
    )
    result = gr.Markdown(visible=False, elem_id="result")
    with gr.Group(visible=False) as samples:
        sample = gr.Dropdown([], label="Sample (the same random draws as the base's)", elem_id="sample")
        with gr.Row():
            with gr.Column(min_width=300):
                gr.Markdown("**The base**")
                base_roll = piece_roll("Piano roll of the base", "base-roll")
                base_sound = piece_player("The base", "base-sound")
            with gr.Column(min_width=300):
                gr.Markdown("**The adapter**")
                own_roll = piece_roll("Piano roll of the adapter", "own-roll")
                own_sound = piece_player("The adapter", "own-sound")
    with gr.Accordion("Last lines of the training", open=False):
        recent = gr.Code(language=None, interactive=False, show_label=False, elem_id="recent")

    def refresh(label: str | None, seen: _Seen) -> tuple[Any, ...]:
        if not label:
            return (gr.skip(),) * len(outputs)
        state = launcher.read(workspace.root / label)
        if seen.shows(label, state):
            return (gr.skip(),) * len(outputs)
        return (
            _Seen.of(label, state),
            _headline(label, state),
            *_curve_and_result(state),
            *_sample_choices(state, seen.latest == _latest_sample(label, state)),
            "\n".join(state.recent),
            gr.update(interactive=state.is_live and state.status != "stopping"),
            gr.update(interactive=not state.is_live and state.step > 0),
        )

    def show_sample(label: str | None, name: str | None) -> tuple[Any, ...]:
        found = {path.stem: path for path in launcher.read(workspace.root / (label or "")).samples}
        return (*_show_piece(found.get("base"), page.cache), *_show_piece(found.get(name or ""), page.cache))

    def act(action: Callable[[Path], None], said: str) -> Callable[[str | None], str]:
        def run_action(label: str | None) -> str:
            try:
                action(workspace.inside(label, "run"))
            except (MusicLoraError, OSError) as error:
                return error_status(error)
            return status_text(said)

        return run_action

    seen = gr.State(_Seen())
    outputs = [seen, headline, curve, result, samples, sample, recent, stop, resume]
    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    gr.Timer(_SECONDS).tick(refresh, [run, seen], outputs, **quiet)
    run.change(refresh, [run, seen], outputs, **quiet)
    run.change(lambda: status_text(""), None, answer, **quiet)
    run.focus(lambda: gr.update(choices=workspace.run_folders()), None, run, **quiet)
    sample.change(show_sample, [run, sample], [base_roll, base_sound, own_roll, own_sound], **quiet)
    stop.click(act(launcher.stop, "the training saves its state and ends"), run, answer, **quiet)
    resume.click(act(launcher.resume, "the training goes on"), run, answer, **quiet)
    _find_run_on_load(launcher, run)
    return RunView(run, [run, seen], outputs, refresh)


def _find_run_on_load(launcher: Launcher, run: Component) -> None:
    """Choose the latest run, or the one that trains, whenever the page is opened."""
    import gradio as gr

    def find() -> Any:
        labels = launcher.workspace.run_folders()
        live = [label for label in labels if launcher.read(launcher.workspace.root / label).is_live]
        return gr.update(choices=labels, value=next(iter([*live, *labels]), None))

    gr.on([gr.context.Context.root_block.load], find, None, run, api_visibility="private", show_progress="hidden")


def _headline(label: str, state: RunState) -> str:
    text = f"{label}: {state.headline()}"
    if state.status == "failed":
        return error_status(text)
    done = _STEPS.search(state.line) if state.is_live else None
    bar = f'<progress value="{done[1]}" max="{done[2]}" aria-label="steps done"></progress>' if done else ""
    return status_text(text) + bar + _copy_line(state)


def _copy_line(state: RunState) -> str:
    """Format the latest look of the copy meter, where it was looked at."""
    rows = [row for row in state.rows if "samples_copied" in row]
    if not rows or state.result:  # the result has a line of its own
        return ""
    last = rows[-1]
    counts = f"{last['samples_copied']:.0f} of {last['samples']:.0f} samples copy the training music"
    return f"<p>copy meter at step {last['step']}: {counts}</p>"


def _curve_and_result(state: RunState) -> tuple[Any, ...]:
    import gradio as gr

    curve = gr.update(value=loss_table(state.rows), visible=True) if state.rows else gr.update(visible=False)
    text = "\n".join(f"* {line}" for line in state.result)
    return curve, gr.update(value=f"**Result**\n\n{text}" if text else "", visible=bool(text))


def _sample_choices(state: RunState, is_known: bool) -> tuple[Any, ...]:
    """Return the updates of the samples' group and of their list, which moves to a sample that is new."""
    import gradio as gr

    names = [path.stem for path in state.samples if path.stem != "base"]
    choices = gr.update(choices=names) if is_known else gr.update(choices=names, value=next(reversed(names), None))
    return gr.update(visible=bool(state.samples)), choices


def _show_piece(path: Path | None, cache: Path) -> Sequence[Any]:
    if path is None:
        return None, None
    view = view_piece(path, cache)
    return (str(view.roll) if view.roll else None), (str(view.sound) if view.sound else None)
