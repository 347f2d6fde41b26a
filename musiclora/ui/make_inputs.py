"""Controls of the form of a new piece: options that come and go, adapters with their strengths."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from musiclora.ui.form import option_control
from musiclora.ui.options import OptionField
from musiclora.ui.workspace import Workspace

if TYPE_CHECKING:
    from gradio.components import Component

MOST_ADAPTERS = 6  # at a time
STRONGEST = 1.5
_QUIET = {"api_visibility": "private", "show_progress": "hidden"}


class OptionGrid:
    """Controls of several options, each in a column that can be hidden."""

    def __init__(self, fields: Sequence[OptionField], prefix: str = "") -> None:
        """Add the controls to the page that is being built, several beside each other where there is room.

        Args:
            fields: the options.
            prefix: beginning of the controls' names in the page, where other commands have options of the same name.
        """
        import gradio as gr

        self.fields = list(fields)
        self.columns: list[Any] = []
        self.controls: list[Component] = []
        with gr.Row(equal_height=False):
            for field in self.fields:
                with gr.Column(min_width=240) as column:
                    self.controls.append(option_control(field, prefix))
                self.columns.append(column)

    def show(self, names: Collection[str]) -> list[Any]:
        """Return the updates of the columns that show the named options only."""
        import gradio as gr

        return [gr.update(visible=field.name in names) for field in self.fields]

    def read(self, values: Sequence[Any]) -> Mapping[str, Any]:
        """Return the values of the controls by the name of the option."""
        return {field.name: value for field, value in zip(self.fields, values, strict=True)}


class AdapterChoice:
    """List of adapters, and a slider for the strength of each chosen one.

    Attributes:
        chosen: the list; its value are labels.
        sliders: in the order of the chosen ones; the ones not needed are hidden.
    """

    def __init__(self, workspace: Workspace, elem_id: str, *, value: Sequence[str] = ()) -> None:
        """Add the controls to the page that is being built.

        Args:
            workspace: the page's folder, whose adapters are offered.
            elem_id: name of the list in the page.
            value: chosen adapters.
        """
        import gradio as gr

        self.chosen = gr.Dropdown(
            workspace.adapter_folders(),
            value=list(value),
            multiselect=True,
            max_choices=MOST_ADAPTERS,
            label="Adapters",
            info=f"One or several, at most {MOST_ADAPTERS}; each gets a strength.",
            elem_id=elem_id,
        )
        self._shown = gr.State(list(value))
        with gr.Row():
            self.sliders = [
                gr.Slider(
                    0,
                    STRONGEST,
                    1,
                    step=0.05,
                    label=f"Strength of {value[number]}" if number < len(value) else "Strength",
                    visible=number < len(value),
                    elem_id=f"{elem_id}-strength-{number + 1}",
                )
                for number in range(MOST_ADAPTERS)
            ]
        events = [self.chosen, self._shown, *self.sliders]
        self.chosen.change(_move_strengths, events, [self._shown, *self.sliders], **_QUIET)
        self.chosen.focus(lambda: gr.update(choices=workspace.adapter_folders()), None, self.chosen, **_QUIET)

    @property
    def inputs(self) -> list[Component]:
        """Controls whose values `read` takes."""
        return [self.chosen, *self.sliders]


def read_adapters(labels: Sequence[str] | None, strengths: Sequence[float]) -> list[tuple[str, float]]:
    """Pair the chosen adapters with their strengths."""
    return list(zip(labels or (), strengths, strict=False))


def _move_strengths(labels: list[str], shown: list[str], *strengths: float) -> tuple[Any, ...]:
    """Return the labels and the updates of the sliders: an adapter keeps its strength when another one goes."""
    import gradio as gr

    known = dict(zip(shown, strengths, strict=False))
    updates = [
        gr.update(visible=True, label=f"Strength of {label}", value=known.get(label, 1.0)) for label in labels or ()
    ]
    updates += [gr.update(visible=False, value=1.0)] * (MOST_ADAPTERS - len(updates))
    return (list(labels or ()), *updates)
