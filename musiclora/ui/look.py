"""Colours, fonts and style sheet of the page; nothing of it is fetched from another host."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

_ACCENT, _ACCENT_HOVER, _ACCENT_DARK = "#b45309", "#92400e", "#f59e0b"  # white on the first two is easy to read
STYLE_SHEET = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.gradio-container > main { max-width: 1180px; margin: 0 auto; }
.status { min-height: 1.5em; margin: 0; }
progress { width: 100%; height: 10px; accent-color: #b45309; }
.error { color: #b91c1c; }
.dark .error { color: #fca5a5; }
.rolls img { background: #fff; border-radius: 6px; }
@media (max-width: 640px) {
    .gradio-container > main { padding: 8px !important; }
}
:focus-visible { outline: 3px solid #b45309 !important; outline-offset: 1px; }
.dark :focus-visible { outline-color: #f59e0b !important; }
"""


def page_theme() -> gr.themes.Base:
    """Return the theme, with fonts of the system."""
    from gradio.themes import Soft
    from gradio.themes.utils.fonts import Font

    theme = Soft(
        primary_hue="amber",
        neutral_hue="stone",
        font=[Font(name) for name in _FONTS],
        font_mono=[Font(name) for name in _MONO],
    )
    plain = {
        "block_title_background_fill": "transparent",
        "block_title_text_color": "*body_text_color",
        "block_title_padding": "0",
        "block_label_background_fill": "*block_background_fill",
        "block_label_text_color": "*body_text_color",
        "block_info_text_color": "*body_text_color",
        "block_border_width": "1px",
        "input_border_width": "1px",
        "input_border_color": "#a8a29e",
        "checkbox_border_color": "#78716c",
        "button_secondary_border_color": "#a8a29e",
        "button_border_width": "1px",
        "button_primary_background_fill": _ACCENT,
        "button_primary_background_fill_hover": _ACCENT_HOVER,
    }
    # a value ends on _dark where the dark mode has its own
    return theme.set(**{f"{name}{mode}": value for name, value in plain.items() for mode in _modes(name)}).set(
        link_text_color=_ACCENT, link_text_color_dark=_ACCENT_DARK
    )


def _modes(name: str) -> tuple[str, ...]:
    """Return the endings under which Gradio's theme knows a value; a padding has one for both modes."""
    return ("",) if name.endswith("padding") else ("", "_dark")
