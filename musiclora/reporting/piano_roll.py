"""Piano rolls: notes as bars over a keyboard grid or in lanes, drawn by matplotlib without its global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from musiclora.convert.files.atomic import atomic_write
from musiclora.reporting.band_roll import band_figure, plan_lines
from musiclora.reporting.figure import figure_png
from musiclora.reporting.lanes import COLOURS, Limits, shared_limits
from musiclora.reporting.marks import shade_marked_bars
from musiclora.reporting.roll import LAST_QUARTER, Roll, roll_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from symusic import Score

LINE_QUARTERS = 32.0
MOST_INCHES = 40.0  # height of a picture with lanes
_BLACK_KEYS = (1, 3, 6, 8, 10)  # pitch classes
_MOST_LINES = 8


def pianoroll_figure(
    rolls: Sequence[tuple[str, Roll]],
    limits: Limits | None = None,
    line_quarters: float = LINE_QUARTERS,
    width: float = 13.0,
    most_inches: float = MOST_INCHES,
) -> Figure:
    """Draw rolls under one another on the same axes.

    One instrument has a keyboard grid; several, and drums, have a lane each.

    Args:
        rolls: title and notes of each.
        limits: axes to use; the rolls' own common ones where None.
        line_quarters: quarter notes in a line, more where the piece would need too many lines.
        width: inches of a full line.
        most_inches: height of a picture with lanes; bars that do not fit are left out, and counted in it.

    Returns:
        A matplotlib Figure; save it with `figure_png`.
    """
    from matplotlib.figure import Figure

    limits = limits or shared_limits([roll for _, roll in rolls])
    if limits.has_lanes:
        return band_figure(rolls, limits, line_quarters, width, most_inches)
    span = max(line_quarters, np.ceil(limits.end / _MOST_LINES / 16) * 16)
    lines = max(1, int(np.ceil((limits.end - 1e-6) / span)))
    if lines == 1:
        span = max(8.0, *(float(roll.bars[-1]) for _, roll in rolls))
    height = min(4.0, max(1.3, 0.055 * (limits.high - limits.low + 1))) + 0.35
    width = max(min(width, 6.0), width * min(1.0, span / line_quarters))
    figure = Figure(figsize=(width, 0.45 * len(rolls) + 0.45 + height * lines * len(rolls)), layout="constrained")
    parts = figure.subfigures(len(rolls), 1, squeeze=False)[:, 0]
    for part, (title, roll) in zip(parts, rolls, strict=True):
        if title:
            part.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color="#1c1917")
        axes = part.subplots(lines, 1, squeeze=False)[:, 0]
        for line, axis in enumerate(axes):
            _draw_line(axis, roll, limits, line * span, span)
        _draw_legend(part, axes[0], roll)
    return figure


def _draw_line(axis: Axes, roll: Roll, limits: Limits, left: float, span: float) -> None:
    stop = min(left + span, float(roll.bars[-1]))
    axis.set_xlim(left - 0.002 * span, left + span * 1.002)
    _draw_keyboard(axis, limits, stop > left)
    if stop <= left:
        return
    _draw_grid(axis, limits, left, stop)
    shade_marked_bars(axis, roll, left, stop)
    bars = roll.bars[(roll.bars >= left - 1e-6) & (roll.bars <= stop + 1e-6)]
    axis.vlines(np.arange(np.ceil(left), stop), *axis.get_ylim(), color="#e7e5e4", linewidth=0.5, zorder=1)
    axis.vlines([*bars, stop], *axis.get_ylim(), color="#a8a29e", linewidth=0.8, zorder=2)
    numbers = np.searchsorted(roll.bars, bars + 1e-6)
    step = max(1, round(len(bars) / 16))
    axis.set_xticks(bars[::step], [str(n) for n in numbers[::step]], fontsize=8, color="#57534e")
    _draw_notes(axis, roll, np.flatnonzero((roll.start < stop) & (roll.start + roll.duration > left)))


def _draw_notes(axis: Axes, roll: Roll, chosen: np.ndarray) -> None:
    """Draw notes as bars, paler where softer, with a dark edge where they begin."""
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    bodies, heads, pale, dark = [], [], [], []
    for i in chosen:
        length = max(0.06, roll.duration[i] - 0.03)  # a sliver of air between repeated notes
        bodies.append(Rectangle((roll.start[i], roll.pitch[i] - 0.42), length, 0.84))
        heads.append(Rectangle((roll.start[i], roll.pitch[i] - 0.42), min(length, 0.06), 0.84))
        colour = COLOURS[roll.track[i] % len(COLOURS)]
        pale.append(to_rgba(colour, 0.4 + 0.5 * min(1.0, roll.velocity[i] / 110)))
        dark.append(to_rgba(colour))
    axis.add_collection(PatchCollection(bodies, facecolors=pale, edgecolors="none", zorder=3))
    axis.add_collection(PatchCollection(heads, facecolors=dark, edgecolors="none", zorder=4))


def _draw_grid(axis: Axes, limits: Limits, left: float, stop: float) -> None:
    """Draw darker rows for black keys and a line under every C."""
    black = [p for p in range(limits.low, limits.high + 1) if p % 12 in _BLACK_KEYS]
    axis.barh(black, stop - left, left=left, height=1.0, color="#f1f0ef", linewidth=0, zorder=0)
    low_edges = [p - 0.5 for p in range(limits.low, limits.high + 1) if p % 12 == 0]
    axis.hlines(low_edges, left, stop, color="#cfcbc7", linewidth=0.8, zorder=1)


def _draw_keyboard(axis: Axes, limits: Limits, named: bool) -> None:
    """Write the names of C and G at the left, without a frame."""
    marked: list[float] = [p for p in range(limits.low, limits.high + 1) if p % 12 in (0, 7)] if named else []
    names = [f"C{p // 12 - 1:.0f}" if p % 12 == 0 else "G" for p in marked]
    axis.set_yticks(marked, names, fontsize=8, color="#57534e")
    axis.set_xticks([])
    axis.set_ylim(limits.low - 0.5, limits.high + 0.5)
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)


def _draw_legend(part: SubFigure, axis: Axes, roll: Roll) -> None:
    """Write the names of the tracks where there are several; at most eight fit."""
    from matplotlib.patches import Patch

    if len(roll.names) < 2:
        return
    shown = roll.names[: len(COLOURS)]
    handles = [Patch(color=COLOURS[i], label=name[:24] or f"track {i + 1}") for i, name in enumerate(shown)]
    if len(roll.names) > len(shown):
        handles.append(Patch(color="none", label=f"and {len(roll.names) - len(shown)} more"))
    legend = axis.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=5, fontsize=8, frameon=False, borderaxespad=0.1
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def render_pianoroll(score: Score, png: Path, title: str, *, overwrite: bool = True) -> list[str]:
    """Draw one score to a PNG file, which appears whole or not at all.

    Args:
        score: symusic Score in ticks.
        png: where to write.
        title: heading, such as the file's name.
        overwrite: replace a file that exists.

    Returns:
        remarks on notes that are not drawn.

    Raises:
        DataError: the score has no notes.
    """
    roll = roll_of(score)
    limits = shared_limits([roll])
    picture = figure_png(pianoroll_figure([(title.replace("$", r"\$"), roll)], limits))
    atomic_write(png, picture, overwrite=overwrite)
    return _list_missing(score, roll, limits)


def _list_missing(score: Score, roll: Roll, limits: Limits) -> list[str]:
    """Say which notes and bars of a score are not in its picture."""
    late = sum(len(track.notes) for track in score.tracks) - roll.count
    remarks = [f"{late} notes after quarter {LAST_QUARTER:.0f} are not drawn"] if late else []
    if limits.has_lanes:
        bars = len(roll.bars) - 1
        if missing := plan_lines(limits, LINE_QUARTERS, MOST_INCHES).missing_bars(roll.bars):
            remarks.append(f"the first {bars - missing} of its {bars} bars are drawn")
    return remarks
