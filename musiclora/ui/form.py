"""Form controls for the options of a command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from musiclora.ui.options import OptionField

if TYPE_CHECKING:
    from gradio.components import Component

SWITCH_VALUES = ["default", "on", "off"]


def option_control(field: OptionField) -> Component:
    """Build the control of one option inside the page that is being built; an empty value leaves the option out."""
    import gradio as gr

    info = f"{field.help} Default: {field.default}." if field.default else field.help
    common: dict[str, Any] = {"label": field.label, "info": info, "elem_id": f"option-{field.name.replace('_', '-')}"}
    if field.kind == "switch" and not field.off_flag:
        return gr.Checkbox(value=False, **common)
    if field.kind == "switch":
        return gr.Radio(SWITCH_VALUES, value="default", **common)
    if field.kind == "choice":
        return gr.Dropdown(["", *field.choices], value="", **common)
    if field.kind in ("integer", "number"):
        return gr.Textbox(value="", max_lines=1, **common)  # a number field would turn "nothing" into 0
    return gr.Textbox(value="", max_lines=1, **common)


def option_controls(fields: Sequence[OptionField]) -> list[Component]:
    """Build the controls of several options, two beside each other where there is room."""
    import gradio as gr

    controls = []
    with gr.Row(equal_height=False):
        for field in fields:
            with gr.Column(min_width=280):
                controls.append(option_control(field))
    return controls
