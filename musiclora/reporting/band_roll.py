"""Piano roll of a band: a lane for each instrument over a grid of drums."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from musiclora.music.drums import drum_name
from musiclora.reporting.lanes import OTHER_DRUMS, Lane, Limits, drum_rows, lane_numbers
from musiclora.reporting.marks import shade_marked_bars
from musiclora.reporting.roll import HIT_QUARTERS, Roll

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT = "#1c1917", "#57534e"
_BAR_COLOUR, _BEAT_COLOUR, _LANE_COLOUR, _ROW_COLOUR = "#a8a29e", "#e7e5e4", "#f5f4f3", "#ebe9e7"
# Heights in inches.
_LANES_HEIGHT = 4.2  # of all lanes where the pitches allow it
_SEMITONE_RANGE = (0.014, 0.045)
_LEAST_LANE, _LANE_GAP, _DRUM_ROW, _LEAST_NOTE = 0.3, 0.07, 0.135, 0.026
_BELOW_LINE = 0.35  # bar numbers, and the space to the next line
_MOST_LINES = 8
_SPANS = (1.0, 1.125, 1.5, 2.0)  # lengths of a line that are tried, times the one that is wanted
_LABEL_WIDTH = 18  # characters


@dataclass(frozen=True)
class Geometry:
    """Places of lanes and drums in a line, in inches from its bottom.

    Attributes:
        semitone: height of a semitone.
        bottoms: height of the lower edge of each lane.
        heights: of each lane.
        height: of all.
    """

    semitone: float
    bottoms: tuple[float, ...]
    heights: tuple[float, ...]
    height: float

    def place(self, limits: Limits, lane: np.ndarray, pitch: np.ndarray) -> np.ndarray:
        """Return the height of the middle of notes."""
        spans = [(item.high - item.low + 1) * self.semitone for item in limits.lanes]
        # a lane that is higher than its pitches need has them in its middle
        floors = [b + (h - s) / 2 for b, h, s in zip(self.bottoms, self.heights, spans, strict=True)]
        lows = np.array([item.low for item in limits.lanes])
        found: np.ndarray = np.array(floors)[lane] + (pitch - lows[lane] + 0.5) * self.semitone
        return found


@dataclass(frozen=True)
class LinePlan:
    """Division of pictures on shared axes into lines.

    Attributes:
        span: quarter notes that a full line holds.
        lines: number of lines.
    """

    span: float
    lines: int

    def edges(self, bars: np.ndarray) -> list[float]:
        """Return the quarters where the lines of a piece begin, and where the last one ends."""
        return _line_edges(bars, self.span)[: self.lines + 1]

    def missing_bars(self, bars: np.ndarray) -> int:
        """Count the bars that the lines do not hold."""
        return int(np.sum(bars[:-1] >= self.edges(bars)[-1] - 1e-6))


def plan_geometry(limits: Limits) -> Geometry:
    """Give each lane the height that its pitches need, and each drum a row."""
    drums = len(limits.drums) * _DRUM_ROW
    gaps = _LANE_GAP * max(0, len(limits.lanes) - (not limits.drums))
    spans = np.array([lane.high - lane.low + 1 for lane in limits.lanes], float)
    semitone = float(np.clip((_LANES_HEIGHT - drums - gaps) / max(1.0, spans.sum()), *_SEMITONE_RANGE))
    heights = np.maximum(spans * semitone, _LEAST_LANE)
    bottoms, at = [], drums + (_LANE_GAP if limits.drums else 0.0)
    for height in heights[::-1]:
        bottoms.append(at)
        at += float(height) + _LANE_GAP
    height = at - _LANE_GAP if len(heights) else drums
    return Geometry(semitone, tuple(bottoms[::-1]), tuple(heights.tolist()), height)


def plan_lines(limits: Limits, line_quarters: float, most_inches: float) -> LinePlan:
    """Divide the pieces of shared axes into lines of whole bars, longer ones where most_inches asks for that.

    Args:
        limits: the axes.
        line_quarters: quarter notes of a line; at most twice as many are put into one.
        most_inches: height of the lines of one piece; bars that do not fit are left out.
    """
    most = int(np.clip(most_inches / (plan_geometry(limits).height + _BELOW_LINE), 1, _MOST_LINES))
    spans = [line_quarters * factor for factor in _SPANS]
    counts = [max(len(_line_edges(bars, span)) - 1 for bars in limits.bars) for span in spans]
    chosen = next((number for number, count in enumerate(counts) if count <= most), len(spans) - 1)
    if chosen == 0 and counts[1] < counts[0]:
        chosen = 1  # spares a short last line
    if counts[chosen] == 1:
        return LinePlan(max(8.0, *(float(bars[-1]) for bars in limits.bars)), 1)
    return LinePlan(spans[chosen], min(most, counts[chosen]))


def _line_edges(bars: np.ndarray, span: float) -> list[float]:
    """Break a piece at the last bar line that a line of so many quarters reaches, or inside a longer bar."""
    stop, edges = float(bars[-1]), [0.0]
    while edges[-1] < stop - 1e-6:
        inside = bars[(bars > edges[-1] + 1e-6) & (bars <= edges[-1] + span + 1e-6)]
        edges.append(float(inside[-1]) if len(inside) else min(edges[-1] + span, stop))
    return edges


def band_figure(
    rolls: Sequence[tuple[str, Roll]], limits: Limits, line_quarters: float, width: float, most_inches: float
) -> Figure:
    """Draw rolls with lanes under one another; see `piano_roll.pianoroll_figure`."""
    from matplotlib.figure import Figure

    geometry = plan_geometry(limits)
    plan = plan_lines(limits, line_quarters, most_inches / len(rolls))
    width = max(min(width, 6.0), width * min(1.0, plan.span / line_quarters))
    height = 0.45 * len(rolls) + 0.45 + (geometry.height + _BELOW_LINE) * plan.lines * len(rolls)
    figure = Figure(figsize=(width, height), layout="constrained")
    parts = figure.subfigures(len(rolls), 1, squeeze=False)[:, 0]
    for part, (title, roll) in zip(parts, rolls, strict=True):
        if title:
            part.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
        axes = part.subplots(plan.lines, 1, squeeze=False)[:, 0]
        edges = plan.edges(roll.bars)
        for line, axis in enumerate(axes):
            begin, stop = (edges[line], edges[line + 1]) if line + 1 < len(edges) else (0.0, 0.0)
            draw_lanes(axis, roll, limits, begin, stop, plan.span)
        if bars := plan.missing_bars(roll.bars):
            words = f"{bars} more bar{'' if bars == 1 else 's'}: not drawn"
            axes[-1].set_xlabel(words, loc="right", fontsize=8, color=SOFT)
    return figure


def draw_lanes(axis: Axes, roll: Roll, limits: Limits, begin: float, stop: float, span: float) -> None:
    """Draw a part of a roll with its lanes, drums, bars and names.

    Args:
        axis: empty axes; they lose their frame.
        roll: the piece.
        limits: axes that it shares with others.
        begin, stop: the part, in quarter notes; nothing is drawn where it is empty.
        span: quarter notes that the axes are long.
    """
    geometry = plan_geometry(limits)
    axis.set_xlim(begin - 0.002 * span, begin + span * 1.002)
    axis.set_ylim(0, geometry.height)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    if stop <= begin:
        return
    _draw_grid(axis, limits, geometry, begin, stop)
    shade_marked_bars(axis, roll, begin, stop)
    bars = roll.bars[(roll.bars >= begin - 1e-6) & (roll.bars <= stop + 1e-6)]
    axis.vlines(np.arange(np.ceil(begin), stop), 0, geometry.height, color=_BEAT_COLOUR, linewidth=0.5, zorder=1)
    axis.vlines([*bars, stop], 0, geometry.height, color=_BAR_COLOUR, linewidth=0.8, zorder=2, gid="bars")
    numbers = np.searchsorted(roll.bars, bars + 1e-6)
    step = max(1, round(len(bars) / 16))
    axis.set_xticks(bars[:-1:step], [str(n) for n in numbers[:-1:step]], fontsize=8, color=SOFT)
    _write_labels(axis, limits, geometry)
    _draw_notes(axis, roll, limits, geometry, begin, stop)
    _draw_drums(axis, roll, limits, begin, stop)


def _draw_grid(axis: Axes, limits: Limits, geometry: Geometry, begin: float, stop: float) -> None:
    """Tint the lanes and every other drum row, and draw a line under every C."""
    bottoms = [*geometry.bottoms, *(row * _DRUM_ROW for row in range(len(limits.drums)))]
    heights = [*geometry.heights, *[_DRUM_ROW] * len(limits.drums)]
    rows = [(_LANE_COLOUR, _ROW_COLOUR)[row % 2] for row in range(len(limits.drums))]
    tints = [*[_LANE_COLOUR] * len(limits.lanes), *rows]
    axis.barh(bottoms, stop - begin, heights, begin, align="edge", color=tints, linewidth=0, zorder=0)
    for number, lane in enumerate(limits.lanes):
        octaves = np.arange(-(-lane.low // 12) * 12, lane.high + 1, 12)
        edges = geometry.place(limits, np.full(len(octaves), number), octaves) - geometry.semitone / 2
        axis.hlines(edges, begin, stop, color="#d6d3d1", linewidth=0.6, zorder=1)
        for octave, edge in zip(octaves, edges, strict=True):
            place = (stop + 0.004 * (axis.get_xlim()[1] - begin), edge)
            axis.text(*place, f"C{octave // 12 - 1}", fontsize=6, color="#78716c", va="center", gid="octave")


def _write_labels(axis: Axes, limits: Limits, geometry: Geometry) -> None:
    """Write the names of lanes and drums at the left, each in its colour."""
    middles = [bottom + height / 2 for bottom, height in zip(geometry.bottoms, geometry.heights, strict=True)]
    rows = [(row + 0.5) * _DRUM_ROW for row in range(len(limits.drums))]
    names = [_wrapped(lane.label) for lane in limits.lanes]
    drums = ["other drums" if drum == OTHER_DRUMS else drum_name(drum) for drum in limits.drums]
    axis.set_yticks([*middles, *rows], [*names, *drums])
    colours = [lane.colour for lane in limits.lanes] + [INK] * len(drums)
    for label, colour in zip(axis.get_yticklabels(), colours, strict=True):
        label.set(color=colour, fontsize=7 if colour == INK else 8, parse_math=False, linespacing=0.95)


def _wrapped(label: str) -> str:
    """Break a name into two lines at most."""
    lines = textwrap.wrap(label, _LABEL_WIDTH) or [label]
    return "\n".join(lines if len(lines) < 3 else [lines[0], f"{lines[1][: _LABEL_WIDTH - 1]}…"])


def _draw_notes(axis: Axes, roll: Roll, limits: Limits, geometry: Geometry, begin: float, stop: float) -> None:
    """Draw notes as bars in their lanes, paler where softer, with a dark edge where they begin."""
    from matplotlib.collections import PolyCollection

    lanes = lane_numbers(roll, limits)
    shown = np.flatnonzero((roll.start < stop) & (roll.start + roll.duration > begin) & (lanes >= 0))
    if not len(shown):
        return
    start = roll.start[shown]
    left, right = np.maximum(start, begin), np.minimum(start + roll.duration[shown], stop)
    right = np.maximum(left + 0.06, right - 0.03)  # a sliver of air between repeated notes
    middle = geometry.place(limits, lanes[shown], roll.pitch[shown])
    half = max(0.84 * geometry.semitone, _LEAST_NOTE) / 2
    colours = _colour_table(limits.lanes)[lanes[shown]]
    shades = np.column_stack([colours, _shade(roll.velocity[shown])])
    bodies = _boxes(left, right, middle - half, middle + half)
    axis.add_collection(PolyCollection(bodies, facecolors=shades, edgecolors="none", zorder=3, gid="notes"))
    begun = start >= begin - 1e-6
    heads = _boxes(left, np.minimum(right, left + 0.06), middle - half, middle + half)[begun]
    axis.add_collection(PolyCollection(heads, facecolors=colours[begun], edgecolors="none", zorder=4, gid="heads"))


def _draw_drums(axis: Axes, roll: Roll, limits: Limits, begin: float, stop: float) -> None:
    """Draw drums as blocks in their rows, paler where softer."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgb

    shown = (roll.hits[:, 0] >= begin) & (roll.hits[:, 0] < stop)
    hits, rows = roll.hits[shown], drum_rows(roll, limits)[shown]
    if not len(hits):
        return
    boxes = _boxes(hits[:, 0], hits[:, 0] + 0.8 * HIT_QUARTERS, (rows + 0.12) * _DRUM_ROW, (rows + 0.88) * _DRUM_ROW)
    shades = np.column_stack([np.tile(to_rgb(INK), (len(hits), 1)), _shade(hits[:, 2])])
    axis.add_collection(PolyCollection(boxes, facecolors=shades, edgecolors="none", zorder=4, gid="drums"))


def _boxes(left: np.ndarray, right: np.ndarray, low: np.ndarray, high: np.ndarray) -> Any:
    """Return the corners of rectangles, float64 [N, 4, 2]; matplotlib's types know sequences of arrays only."""
    return np.stack([np.stack([left, right, right, left], 1), np.stack([low, low, high, high], 1)], 2)


def _colour_table(lanes: Sequence[Lane]) -> np.ndarray:
    from matplotlib.colors import to_rgb

    return np.array([to_rgb(lane.colour) for lane in lanes])


def _shade(velocity: np.ndarray) -> np.ndarray:
    """Return the opacity of notes: 0.3 for the softest, 0.95 from velocity 115 on."""
    found: np.ndarray = 0.3 + 0.65 * np.minimum(1.0, velocity / 115)
    return found
