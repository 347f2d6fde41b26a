"""Status lines of the page; a screen reader announces them."""

from __future__ import annotations

from html import escape


def status_text(text: str) -> str:
    """Return the HTML of a status line."""
    return f'<p class="status" role="status" aria-live="polite">{escape(text)}</p>'


def error_status(error: object) -> str:
    """Return the HTML of a line that says what went wrong."""
    text = " ".join(str(error).split())
    return f'<p class="status" role="alert"><strong class="error">{escape(text)}</strong></p>'
