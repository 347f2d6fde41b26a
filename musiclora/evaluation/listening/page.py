"""The page of a listening test: one file that holds text, script and excerpts, and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from musiclora.reporting.style import PAGE_STYLE

_PARTS = files("musiclora.evaluation.listening")


def page_fingerprint(title: str, items: Mapping[str, bytes], references: Sequence[bytes]) -> str:
    """Compute the name of a test from its contents, 16 hexadecimal digits."""
    digest = hashlib.sha256(title.encode())
    for name in sorted(items):
        digest.update(name.encode() + hashlib.sha256(items[name]).digest())
    for data in references:
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]


def listening_page(title: str, test: str, items: Mapping[str, bytes], references: Sequence[bytes]) -> str:
    """Return the HTML of a listening test.

    Args:
        title: heading, escaped here.
        test: fingerprint of the contents.
        items: MP3 of each rated excerpt by its opaque id; they are written in the order of the ids.
        references: MP3 of excerpts of the style, which are not rated.
    """
    data = {
        "test": test,
        "items": [{"id": name, "audio": _data_uri(items[name])} for name in sorted(items)],
        "references": [_data_uri(item) for item in references],
    }
    texts = {
        "TITLE": escape(title),
        "STYLE": PAGE_STYLE + _PARTS.joinpath("page.css").read_text(encoding="utf-8"),
        "DATA": json.dumps(data).replace("<", "\\u003c"),
        "SCRIPT": _PARTS.joinpath("page.js").read_text(encoding="utf-8"),
    }
    page = _PARTS.joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: texts[match[1]], page)


def _data_uri(data: bytes) -> str:
    return f"data:audio/mpeg;base64,{base64.b64encode(data).decode()}"
