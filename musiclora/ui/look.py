"""Colours, fonts and style sheet of the page; nothing of it is fetched from another host."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

STYLE_SHEET = """
.gradio-container { max-width: 1180px !important; }
.status { min-height: 1.5em; }
.status .error, .error { color: var(--error-text-color); }
.facts table { width: 100%; }
.rolls img { background: #fff; border-radius: 6px; }
@media (max-width: 640px) {
    .gradio-container { padding: 8px !important; }
    .gradio-container .row { flex-direction: column; }
    .facts { overflow-x: auto; }
}
:focus-visible { outline: 3px solid var(--color-accent) !important; outline-offset: 1px; }
"""


def page_theme() -> gr.themes.Base:
    """Return the theme, with fonts of the system."""
    from gradio.themes import Soft
    from gradio.themes.utils.fonts import Font

    return Soft(
        primary_hue="amber",
        neutral_hue="stone",
        font=[Font(name) for name in _FONTS],
        font_mono=[Font(name) for name in _MONO],
    )
