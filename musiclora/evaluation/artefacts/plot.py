"""Picture of artefacts: one small plot a measure, one row of points a set of recordings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from musiclora.evaluation.artefacts.compare import BASELINE, GENERATED, REFERENCE, ArtefactComparison
from musiclora.evaluation.artefacts.expected import MEASURES, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {REFERENCE: "recordings", BASELINE: "base", GENERATED: "generated"}
# Blue, grey and orange of different lightness, told apart also without colour by their rows and hollow points.
_COLOURS = {REFERENCE: "#2563a8", BASELINE: "#57534e", GENERATED: "#b3470e"}
_RANGE_COLOUR, _GREY, _INK = "#dbe7f5", "#57534e", "#1c1917"
_SPREAD = 0.22  # of the points across their row, so that equal values are seen
_LEAST_PERCENT = 1e-4  # of energy, on the logarithmic axis


def artefact_figure(found: ArtefactComparison, columns: int = 2, names: Mapping[str, str] = NAMES) -> Figure:
    """Draw all files of all sets, and the range that the reference recordings show.

    Args:
        found: artefacts to draw.
        columns: plots in a row.
        names: words for the sets.

    Returns:
        A matplotlib Figure.
    """
    from matplotlib.figure import Figure

    measures = [measure for measure in MEASURES if any(found.values(kind, measure) for kind in found.sets)]
    rows = -(-len(measures) // columns)
    figure = Figure(figsize=(4.4 * columns, 1.7 * rows + 0.1), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axis, measure in zip(axes, measures, strict=False):
        _draw_measure(axis, found, measure, names)
    for axis in axes[len(measures) :]:
        axis.set_axis_off()
    return figure


def _draw_measure(axis: Axes, found: ArtefactComparison, measure: Measure, names: Mapping[str, str]) -> None:
    """Draw one row of points a set, with its median, over the expected range."""
    is_share = measure.key in ("energy_above_10khz", "clipped", "silence")
    factor = 100 if is_share else 1
    expected = found.expected[measure.key]
    if expected:
        axis.axvspan(factor * expected.low, factor * expected.high, color=_RANGE_COLOUR, linewidth=0, zorder=0)
    kinds = [kind for kind in (GENERATED, BASELINE, REFERENCE) if kind in found.sets]
    everything = [0.0]
    for place, kind in enumerate(kinds):
        values = factor * np.array(found.values(kind, measure))
        if measure.key == "energy_above_10khz":
            values = np.maximum(values, _LEAST_PERCENT)
        everything += list(values)
        across = place + _SPREAD * np.resize([0, 1, -1, 0.5, -0.5], len(values))
        face = "none" if kind == BASELINE else _COLOURS[kind]
        axis.plot(values, across, "o", color=_COLOURS[kind], markerfacecolor=face, markersize=4, alpha=0.75)
        if len(values):
            axis.plot([np.median(values)] * 2, [place - 0.36, place + 0.36], color=_INK, linewidth=1.4)
    _set_range(axis, measure, np.array(everything))
    axis.set_yticks(range(len(kinds)), [names[kind] for kind in kinds])
    axis.set_ylim(-0.6, len(kinds) - 0.4)
    axis.set_title(measure.title, fontsize=10, loc="left", color=_INK)
    outside = f"outside: {found.outside_text(measure)}" if expected else ""
    axis.set_title(outside, fontsize=8.5, loc="right", color=_GREY)
    axis.tick_params(colors=_GREY, labelsize=8.5)
    for name, side in axis.spines.items():
        side.set_visible(name == "bottom")
        side.set_color("#a8a29e")


def _set_range(axis: Axes, measure: Measure, values: np.ndarray) -> None:
    """Let the axis hold all values; an expected range may reach beyond it."""
    if measure.key == "energy_above_10khz":
        axis.set_xscale("log")
        axis.set_xlim(max(_LEAST_PERCENT, values[1:].min()) / 2, values[1:].max() * 2)
        axis.xaxis.set_major_formatter("{x:g}")
    elif measure.key == "noise_floor_db":
        axis.set_xlim(values[1:].min() - 3, values[1:].max() + 3)
    else:
        most = max(1.0, float(values.max()))
        axis.set_xlim(-0.05 * most, 1.05 * most)
