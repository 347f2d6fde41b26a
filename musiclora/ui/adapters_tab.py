"""Tab `Adapters`."""

from __future__ import annotations

from musiclora.ui.state import Page


def build_adapters_tab(page: Page) -> None:
    """Add the components of the tab to the page that is being built."""
    import gradio as gr

    gr.Markdown("adapters")
