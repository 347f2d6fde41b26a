"""Sections of reports on a training run: key figures, loss curve, size of the update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from musiclora.reporting.figure import figure_png
from musiclora.reporting.html import figure_box, folded, image_tag, paragraphs, row_table, section, table_row
from musiclora.reporting.loss_plot import loss_figure

Fact = tuple[str, str, str]  # name, value, remark


def fact_list(facts: Iterable[Fact]) -> str:
    """Return HTML of key figures in boxes; empty without any."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
        for name, value, more in facts
    )
    return f'<dl class="facts">{cells}</dl>' if cells else ""


def run_facts(steps: int, seconds: float, update: Mapping[str, float]) -> list[Fact]:
    """Return the size of the update, and steps and seconds of the training.

    Args:
        steps: optimiser steps.
        seconds: training time of all starts, with the evaluations.
        update: ||dW|| / ||W|| by module.
    """
    facts = []
    if update:
        mean = sum(update.values()) / len(update)
        facts.append(("size of the update", f"{mean:.2%}", "of the weights it is added to, on average"))
    if steps:
        facts.append(("training", f"{steps} step{'' if steps == 1 else 's'}", f"in {seconds:,.0f} s"))
    return facts


def loss_section(
    metrics: Sequence[Mapping[str, Any]],
    loss: str = "nats a token",
    pieces: str = "songs",
    picture: bytes | None = None,
) -> str:
    """Return the loss curve; empty where no step was recorded.

    Args:
        metrics: lines of metrics.jsonl.
        loss: unit of the loss.
        pieces: `songs` or `recordings`.
        picture: the curve as PNG where it is drawn already; None draws it.
    """
    if not metrics:
        return ""
    picture = picture or figure_png(loss_figure(metrics, loss, pieces))
    image = image_tag(picture, f"Loss by optimiser step, on training and on held-out {pieces}")
    held_out = any(row.get("val_loss") is not None for row in metrics)
    caption = "Dashed: the base alone. Circle: the step that was kept." if held_out else ""
    return section("Training", figure_box(image, caption=caption))


def update_section(update: Mapping[str, float]) -> str:
    """Return a table of the update's size by module; empty without any."""
    if not update:
        return ""
    largest = max(update.values()) or 1.0
    rows = []
    for name, ratio in update.items():
        bar = f'<td class="bars"><span class="bar" style="width:{100 * ratio / largest:.0f}%"></span></td>'
        rows.append(table_row(name, [f"<td>{ratio:.2%}</td>", bar]))
    words = ["||dW|| / ||W||: how far the adapter moves each matrix. Zero everywhere: nothing was learnt."]
    summary = f"{len(update)} matrices, the largest update {largest:.2%}"
    return section("What moved", paragraphs(words) + folded(summary, row_table(rows)))
