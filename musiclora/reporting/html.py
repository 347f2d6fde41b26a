"""Parts of self-contained HTML reports: page, sections, tables, figures, players, commands."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from musiclora.convert.files.atomic import atomic_write
from musiclora.reporting.style import PAGE_SCRIPT, PAGE_STYLE

# Nothing is loaded from anywhere: pictures and sounds are data URIs, style and script stand in the page.
_CONTENT_POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def write_page(path: Path, title: str, subtitle: str, parts: Iterable[str]) -> None:
    """Write one HTML file that appears whole or not at all.

    Args:
        path: the .html file.
        title, subtitle: texts, escaped here.
        parts: HTML of the page's sections.
    """
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_CONTENT_POLICY}">
<title>{escape(title)}</title>
<style>{PAGE_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="soft">{escape(subtitle)}</p>
{"".join(parts)}
</main>
<script>{PAGE_SCRIPT}</script>
</body>
</html>
"""
    atomic_write(path, page)


def sentence(text: str) -> str:
    """Begin a text with a capital letter and leave the rest as it is."""
    return text[:1].upper() + text[1:]


def section(title: str, content: str) -> str:
    """Return HTML under a heading; empty content gives no section."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>\n" if content else ""


def verdict_box(style: str, headline: str, words: str) -> str:
    """Return the result in words, coloured by style: `gained`, `flat` or `lost`."""
    return f'<p class="verdict {style}" role="status"><strong>{escape(headline)}</strong>{escape(words)}</p>'


def paragraphs(texts: Iterable[str]) -> str:
    """Return one paragraph a text."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def soft_paragraph(text: str) -> str:
    """Return a paragraph in the soft colour of remarks."""
    return f"<p class='soft'>{escape(text)}</p>"


def number_table(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a table of numbers.

    Args:
        columns: headings, the first one above the rows' names.
        rows: name and cells of each row.
    """
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(table_row(name, [f"<td>{escape(cell)}</td>" for cell in cells]) for name, cells in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def text_table(values: Mapping[str, object]) -> str:
    """Return a table of values by name."""
    return row_table([table_row(name, [f"<td>{escape(str(value))}</td>"]) for name, value in values.items()], "text")


def table_row(name: str, cells: Iterable[str]) -> str:
    """Return a table row from its name and the HTML of its cells."""
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def row_table(rows: Iterable[str], style: str = "") -> str:
    """Return a table without headings from the HTML of its rows."""
    opening = f'<table class="{style}">' if style else "<table>"
    return f'<div class="scroll">{opening}<tbody>{"".join(rows)}</tbody></table></div>'


def folded(summary: str, content: str) -> str:
    """Return HTML that is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def figure_box(content: str, title: str = "", caption: str = "") -> str:
    """Return HTML framed as a figure, with a title above and a caption below where given."""
    heading = f"<h4>{escape(title)}</h4>" if title else ""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{heading}{content}{below}</figure>"


def side_by_side(title: str, figures: Iterable[str], above: str = "") -> str:
    """Return figures next to each other under a heading, below the HTML `above`."""
    return f'<h3>{escape(title)}</h3>{above}<div class="pair">{"".join(figures)}</div>'


def image_tag(png: bytes, alt: str) -> str:
    """Return a picture that is embedded in the page."""
    return f'<img src="{_data_uri("image/png", png)}" alt="{escape(alt)}">'


def responsive_image(wide: bytes, narrow: bytes, alt: str) -> str:
    """Return a picture that is embedded in the page in two forms: for wide and for narrow screens (up to 44 rem)."""
    source = f'<source media="(max-width: 44rem)" srcset="{_data_uri("image/png", narrow)}">'
    return f"<picture>{source}{image_tag(wide, alt)}</picture>"


def audio_player(wave: bytes, label: str) -> str:
    """Return a player of a WAV file that is embedded in the page."""
    return (
        f'<audio controls preload="metadata" aria-label="{escape(label)}" src="{_data_uri("audio/wav", wave)}"></audio>'
    )


def command_boxes(commands: Iterable[str]) -> str:
    """Return commands, each with a button that copies it."""
    return "".join(
        f'<div class="command"><code>{escape(command)}</code>'
        '<button type="button" aria-label="Copy this command">Copy</button></div>'
        for command in commands
    )


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
