"""Parts of self-contained HTML reports: sections, tables, images, players."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import Any


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>\n"


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _image(png: bytes, alt: str) -> str:
    return f'<img src="{_uri("image/png", png)}" alt="{escape(alt, quote=True)}">'


def _text_table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
        for name, value in values.items()
    )
    return f'<div class="scroll"><table class="text"><tbody>{rows}</tbody></table></div>'
