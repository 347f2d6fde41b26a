"""Part of reports that shows artefacts: a picture, a table and what lies outside."""

from __future__ import annotations

from collections.abc import Mapping

from musiclora.errors import join_problems
from musiclora.evaluation.artefacts.compare import BASELINE, GENERATED, REFERENCE, ArtefactComparison
from musiclora.evaluation.artefacts.expected import MEASURES
from musiclora.evaluation.artefacts.plot import NAMES, artefact_figure
from musiclora.reporting.figure import figure_png
from musiclora.reporting.html import (
    figure_box,
    folded,
    number_table,
    paragraphs,
    responsive_image,
    sentence,
    soft_paragraph,
)

_WORDS = (
    "Each point is a clip, each bar a median. The shaded range is what one further recording would show in 99 of 100 "
    "cases, judged by the recordings themselves."
)


def artefact_section(found: ArtefactComparison, names: Mapping[str, str] = NAMES) -> str:
    """Return the HTML of the artefacts: what lies outside, the picture and the figures.

    Args:
        found: artefacts to show.
        names: words for the sets.
    """
    kinds = [kind for kind in (REFERENCE, BASELINE, GENERATED) if kind in found.sets]
    wide, narrow = (figure_png(artefact_figure(found, columns, names), dpi=130) for columns in (2, 1))
    medians = [f"{name} {', '.join(cells[:-1])}" for name, cells in found.table(kinds)]
    alt = f"Artefacts of {', '.join(names[kind] for kind in kinds)}: {join_problems(medians, len(medians))}"
    table = number_table(("", *(f"{names[kind]} (range)" for kind in kinds), "outside"), found.table(kinds))
    remarks = "".join(soft_paragraph(f"{sentence(note)}.") for note in found.notes)
    picture = figure_box(responsive_image(wide, narrow, alt), caption=_WORDS)
    return paragraphs([f"{sentence(describe_artefacts(found))}."]) + picture + folded("The figures", table) + remarks


def describe_artefacts(found: ArtefactComparison) -> str:
    """Say in one sentence how many generated files lie outside what the recordings show, and in which measures."""
    files = found.sets[GENERATED]
    outside = [file for file in files if found.marks(file)]
    if not any(found.expected.values()):
        return "artefacts are measured, but too few recordings tell what is usual"
    if not outside:
        return f"none of {len(files)} generated clips has artefacts that the recordings do not show"
    measures = [
        f"{measure.title.partition(',')[0]} in {count}"
        for measure in MEASURES
        if (count := found.count_outside(GENERATED, measure))
    ]
    return f"{len(outside)} of {len(files)} generated clips lie outside what the recordings show: {', '.join(measures)}"
