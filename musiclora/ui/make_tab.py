"""Tab `Make`."""

from __future__ import annotations

from musiclora.ui.state import Page


def build_make_tab(page: Page) -> None:
    """Add the components of the tab to the page that is being built."""
    import gradio as gr

    gr.Markdown("make")
