"""Picture of a style card: one small plot a feature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from musiclora.convert.files.atomic import atomic_write
from musiclora.evaluation.style.card import FeatureResult, StyleCard
from musiclora.reporting.figure import figure_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = {"reference": "artist's songs", "baseline": "base", "generated": "generated"}
# Blue, orange and grey of different lightness, told apart also without colour by fill, line and dashes.
_COLOURS = {"reference": "#8fb4dc", "baseline": "#57534e", "generated": "#b3470e"}
_GREY = "#57534e"
_LEGEND = {"loc": "outside upper left", "ncols": 3, "frameon": False, "fontsize": 9}
_MOST_INSTRUMENTS = 8  # that are drawn by name
_MOST_TICKS = 12


def style_figure(card: StyleCard, columns: int = 2) -> Figure:
    """Draw the distributions of all features, the artist's as areas and the others as lines.

    Args:
        card: what to draw.
        columns: plots in a row.

    Returns:
        A matplotlib Figure.
    """
    from matplotlib.figure import Figure

    rows = -(-len(card.rows) // columns)
    figure = Figure(figsize=(4.4 * columns, 1.75 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axis, row in zip(axes, card.rows, strict=False):
        if row.feature.labels:
            _draw_histogram(axis, row)
        else:
            _draw_numbers(axis, row)
        score = f"overlap {row.generated.overlap.value:.2f}"
        score += f", base {row.baseline.overlap.value:.2f}" if row.baseline else ""
        axis.set_title(row.feature.title, fontsize=10, loc="left", color="#1c1917")
        axis.set_title(score, fontsize=8.5, loc="right", color=_GREY)
        axis.set_xlabel(row.feature.axis, fontsize=8.5, color=_GREY, labelpad=1)
        axis.tick_params(colors=_GREY, labelsize=8)
        for name, side in axis.spines.items():
            side.set_visible(name == "bottom")
            side.set_color("#a8a29e")
    for axis in axes[len(card.rows) :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: list(_NAMES.values()).index(labels[i]))
    figure.legend([handles[i] for i in order], [labels[i] for i in order], **_LEGEND)
    return figure


def _draw_histogram(axis: Axes, row: FeatureResult) -> None:
    """Draw the mean histogram of each set."""
    from matplotlib.ticker import MaxNLocator

    labels, values = list(row.feature.labels), dict(row.values)
    if row.feature.key == "instruments":
        labels, values = _leading(labels, values)
        _draw_bars(axis, labels, values)
        return
    used = np.flatnonzero(np.stack(list(values.values())).max(axis=0) > 0.002)
    first, last = int(used.min()), int(used.max()) + 1
    places = np.arange(first, last)
    for name, shares in _in_order(values):
        shown = 100 * shares[first:last]
        label = _NAMES[name]
        if name == "reference":
            axis.bar(places, shown, width=0.92, color=_COLOURS[name], label=label)
        else:
            dashes = "--" if name == "baseline" else "-"
            axis.step(
                *_outline(places, shown),
                where="post",
                color=_COLOURS[name],
                linestyle=dashes,
                linewidth=1.5,
                label=label,
            )
    every = -(-len(places) // _MOST_TICKS)
    skipped = (-first) % every if row.feature.key != "interval" else (len(labels) // 2 - first) % every
    axis.set_xticks(places[skipped::every], labels[first + skipped : last : every])
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter("{x:.0f} %")
    axis.yaxis.set_major_locator(MaxNLocator(3))


def _outline(places: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of a histogram's outline."""
    return np.append(places, places[-1] + 1) - 0.5, np.append(shares, shares[-1])


def _leading(labels: list[str], values: dict[str, np.ndarray]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Keep the instruments with most notes in any set; the others count together."""
    most = np.stack(list(values.values())).max(axis=0)
    order = [i for i in np.argsort(-most, kind="stable") if most[i] > 0]
    shown, others = order[:_MOST_INSTRUMENTS], order[_MOST_INSTRUMENTS:]
    names = [labels[i] for i in shown] + (["others"] if others else [])
    kept = {
        name: np.append(shares[shown], shares[others].sum()) if others else shares[shown]
        for name, shares in values.items()
    }
    return names, kept


def _draw_bars(axis: Axes, labels: list[str], values: dict[str, np.ndarray]) -> None:
    """Draw shares as points beside names, since names do not fit below a plot."""
    places = np.arange(len(labels))[::-1]
    for name, shares in _in_order(values):
        shown = 100 * shares
        if name == "reference":
            axis.barh(places, shown, height=0.75, color=_COLOURS[name], label=_NAMES[name])
        else:
            face = _COLOURS[name] if name == "generated" else "none"
            axis.plot(
                shown, places, "o", color=_COLOURS[name], markerfacecolor=face, markersize=4.5, label=_NAMES[name]
            )
    axis.set_yticks(places, labels)
    axis.set_xlim(left=-1)
    axis.xaxis.set_major_formatter("{x:.0f} %")


def _draw_numbers(axis: Axes, row: FeatureResult) -> None:
    """Draw the number of each piece as a point, in one line a set, with the median."""
    names = [name for name, _ in _in_order(row.values)]
    for place, (name, numbers) in enumerate(reversed(list(_in_order(row.values)))):
        face = "none" if name == "baseline" else _COLOURS[name]
        axis.plot(numbers, np.full(len(numbers), place), "o", color=_COLOURS[name], markerfacecolor=face, markersize=4)
        axis.plot([np.median(numbers)] * 2, [place - 0.32, place + 0.32], color="#1c1917", linewidth=1.2)
    axis.set_yticks(range(len(names)), [_NAMES[name] for name in reversed(names)])
    axis.set_ylim(-0.6, len(names) - 0.4)


def _in_order(values: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    return [(name, values[name]) for name in _NAMES if name in values]


def style_picture(path: Path, card: StyleCard, *, overwrite: bool) -> None:
    """Write the picture as a PNG file, atomically; see `style_figure`."""
    atomic_write(path, figure_png(style_figure(card), dpi=130), overwrite=overwrite)
