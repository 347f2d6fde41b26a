"""Section of reports that shows a style card."""

from __future__ import annotations

from musiclora.errors import join_problems
from musiclora.evaluation.audio_distances import Spread
from musiclora.evaluation.style.card import SetScore, StyleCard
from musiclora.evaluation.style.plot import style_figure
from musiclora.reporting.figure import figure_png
from musiclora.reporting.html import (
    figure_box,
    folded,
    number_table,
    paragraphs,
    responsive_image,
    section,
    sentence,
    soft_paragraph,
)

_WORDS = (
    "Overlap of the distances within the songs with those to the pieces (Yang and Lerch 2020): 1 is alike, 0 has "
    "nothing in common. Each piece counts once. A copy is alike too: read it beside the copy meter."
)


def style_section(card: StyleCard | None) -> str:
    """Return the figures, the picture and the table of a card; empty without one."""
    if card is None:
        return ""
    facts = [card.describe(), *card.verdict()]
    wide, narrow = (figure_png(style_figure(card, columns), dpi=130) for columns in (2, 1))
    picture = responsive_image(wide, narrow, _alt(card))
    remarks = "".join(soft_paragraph(f"{sentence(note)}.") for note in card.notes)
    content = paragraphs(f"{sentence(fact)}." for fact in facts) + figure_box(picture, caption=_WORDS)
    return section("Does it sound like them?", content + folded("The figures", _table(card)) + remarks)


def _table(card: StyleCard) -> str:
    heads = ["", "overlap (95 %)", "KL, nats", "spread"]
    heads += ["base"] if card.baseline else []
    heads += ["artist's own songs"] if card.real else []
    rows = []
    for name, (made, base, real) in card.table():
        cells = [_format(made.overlap), f"{made.kl.value:.2f}", f"{made.spread.value:.2f}" if made.spread else "–"]
        cells += [_overlap(base)] if card.baseline else []
        cells += [_overlap(real)] if card.real else []
        rows.append((name, cells))
    return number_table(heads, rows)


def _overlap(score: SetScore | None) -> str:
    return _format(score.overlap) if score else "–"


def _format(part: Spread) -> str:
    return f"{part.value:.2f} ({part.low:.2f} to {part.high:.2f})"


def _alt(card: StyleCard) -> str:
    """Describe the picture for those who do not see it."""
    parts = [f"{row.feature.title} {row.generated.overlap.value:.2f}" for row in card.rows]
    return f"Distributions of the artist's songs and of the pieces; overlaps: {join_problems(parts, len(parts))}"
