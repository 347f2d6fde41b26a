"""The page: four tabs over one workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from musiclora.ui.state import Page

if TYPE_CHECKING:
    import gradio as gr


def build_page(page: Page) -> gr.Blocks:
    """Build the Gradio application."""
    import gradio as gr

    from musiclora.ui.adapters_tab import build_adapters_tab
    from musiclora.ui.make_tab import build_make_tab
    from musiclora.ui.songs_tab import build_songs_tab
    from musiclora.ui.train_tab import build_train_tab

    with gr.Blocks(title="musiclora", analytics_enabled=False, fill_width=False) as blocks:
        gr.Markdown(f"# musiclora\nFolder of this page: `{page.workspace.root}`")
        with gr.Tabs():
            with gr.Tab("Songs"):
                folder, best = build_songs_tab(page)
            with gr.Tab("Train"):
                build_train_tab(page, folder, best)
            with gr.Tab("Make"):
                build_make_tab(page)
            with gr.Tab("Adapters"):
                build_adapters_tab(page)
    return blocks
