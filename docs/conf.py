"""Sphinx configuration of the documentation site; `scripts/docs` builds it.

The source folder is the repository root, so that a link between two Markdown files works on the site as on a forge.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

project = "musiclora"
author = "the musiclora authors"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/**.md", "musiclora/bundled/*/README.md"]
exclude_patterns = ["build", "dist", "tests", ".*", "runs", "out", "outputs", "venv", "musiclora-demo*", "*.egg-info"]
suppress_warnings = ["toc.not_included"]  # model cards and data notes are reached by links alone

myst_heading_anchors = 4  # links to headings, as a forge makes them

html_theme = "furo"
html_title = "musiclora"
html_theme_options = {"source_edit_link": "", "top_of_page_buttons": []}
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False

LISTED = re.compile(r"^\* \[([^\]]+)\]\(([^)#\s]+)\.md\)", re.MULTILINE)


def add_toctrees(app: Any, docname: str, source: list[str]) -> None:
    """Append a hidden toctree for each section of the start page that lists pages as `* [Title](page.md)`.

    A forge shows a toctree directive as code, so the start page holds plain links only.
    """
    if docname != root_doc:
        return
    for section in re.split(r"^## ", source[0], flags=re.MULTILINE)[1:]:
        pages = [f"{title} <{(Path('/docs') / page).as_posix()}>" for title, page in LISTED.findall(section)]
        if pages:
            caption = section.splitlines()[0]
            source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```\n"])


def setup(app: Any) -> dict[str, bool]:
    """Connect the toctrees to the reading of sources."""
    app.connect("source-read", add_toctrees)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
