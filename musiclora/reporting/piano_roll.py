"""Piano rolls: notes as bars over a keyboard grid, drawn by matplotlib without its global state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from musiclora.convert.files.atomic import atomic_write
from musiclora.errors import DataError
from musiclora.reporting.figure import figure_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from symusic import Score, Track

# Track colours, distinct for most kinds of colour blindness (after Okabe and Ito) and dark enough on white.
_TRACK_COLOURS = ("#2563a8", "#c2571a", "#15803d", "#a1388f", "#8a6d00", "#0e7490", "#b42336", "#57534e")
_BLACK_KEYS = (1, 3, 6, 8, 10)  # pitch classes
_DRUM_COLOUR = "#1c1917"
_DRUM_ROW, _LANE_GAP = 1.4, 1.0  # height of a drum's row and the gap above the rows, in semitones
_MOST_LINES = 8
_LAST_QUARTER = 4096.0  # notes that begin later are not drawn


@dataclass(frozen=True)
class Roll:
    """Notes to draw; times in quarter notes.

    Attributes:
        start, duration: float64 [N].
        pitch, velocity, track: int64 [N]; tracks are numbered from 0.
        names: name of each track.
        bars: float64 [M], times of the bar lines.
        hits: float64 [D, 3], time, General MIDI drum and velocity of drums beside other tracks.
    """

    start: np.ndarray
    duration: np.ndarray
    pitch: np.ndarray
    velocity: np.ndarray
    track: np.ndarray
    names: tuple[str, ...]
    bars: np.ndarray
    hits: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))

    @property
    def end(self) -> float:
        """Return the end of the last note, or the time of a later drum."""
        return float(max((self.start + self.duration).max(initial=0.0), self.hits[:, 0].max(initial=0.0)))


@dataclass(frozen=True)
class Limits:
    """Axes that several rolls share.

    Attributes:
        low, high: lowest and highest pitch.
        end: in quarter notes.
        drums: General MIDI drums in their order from the bottom, each a row of the lane under the notes.
    """

    low: int
    high: int
    end: float
    drums: tuple[int, ...] = ()

    @property
    def bottom(self) -> float:
        """Return the lower edge of the axes, in semitones."""
        return self.low - 0.5 - (_LANE_GAP + len(self.drums) * _DRUM_ROW if self.drums else 0.0)


def roll_of(score: Score) -> Roll:
    """Collect the notes of a symusic Score in ticks, without very late ones; drums alone are notes as any others."""
    tracks = [t for t in score.tracks if len(t.notes) and not t.is_drum]
    drums = [t for t in score.tracks if len(t.notes) and t.is_drum] if tracks else []
    tracks = tracks or [t for t in score.tracks if len(t.notes)]
    arrays = [t.notes.numpy() for t in tracks]
    quarter = max(1, score.ticks_per_quarter)

    def joined(key: str) -> np.ndarray:
        return np.concatenate([np.asarray(a[key]) for a in arrays]) if arrays else np.zeros(0, np.int64)

    start, duration = joined("time") / quarter, joined("duration") / quarter
    drawn = (start >= 0) & (start < _LAST_QUARTER)
    duration = np.minimum(duration, _LAST_QUARTER - start)
    number = np.repeat(np.arange(len(arrays)), [len(a["time"]) for a in arrays])
    names = tuple(t.name.strip() or f"track {i + 1}" for i, t in enumerate(tracks))
    pitch, velocity = joined("pitch"), joined("velocity")
    hits = _drum_hits(drums, quarter)
    end = float(max((start + duration)[drawn].max(initial=0.0), hits[:, 0].max(initial=0.0)))
    lines = _bar_lines(score, quarter, end)
    return Roll(start[drawn], duration[drawn], pitch[drawn], velocity[drawn], number[drawn], names, lines, hits)


def _drum_hits(drums: Sequence[Track], quarter: int) -> np.ndarray:
    columns = [t.notes.numpy() for t in drums]
    rows = [np.stack([a["time"] / quarter, a["pitch"], a["velocity"]], 1) for a in columns]
    hits = np.concatenate([np.zeros((0, 3)), *rows])
    return hits[(hits[:, 0] >= 0) & (hits[:, 0] < _LAST_QUARTER)]


def _bar_lines(score: Score, quarter: int, end: float) -> np.ndarray:
    changes = sorted(
        (t.time / quarter, 4.0 * t.numerator / t.denominator)
        for t in score.time_signatures
        if t.numerator > 0 and t.denominator > 0
    )
    if not changes or changes[0][0] > 0:
        changes.insert(0, (0.0, 4.0))
    lines: list[float] = []
    for (time, length), following in zip(changes, [*(c[0] for c in changes[1:]), end + changes[-1][1]], strict=True):
        if time <= end:
            lines += np.arange(time, min(following, end + length) - 1e-6, length).tolist()
    return np.array(sorted(set(lines)))


def shared_limits(rolls: Sequence[Roll]) -> Limits:
    """Return limits that hold all the rolls, with at least an octave and a half of pitches.

    Raises:
        DataError: there is no note to draw.
    """
    pitches = np.concatenate([r.pitch for r in rolls]) if rolls else np.zeros(0)
    if not len(pitches):
        raise DataError("there are no notes to draw")
    low, high = int(pitches.min()) - 2, int(pitches.max()) + 2
    missing = max(0, 18 - (high - low))
    drums = np.unique(np.concatenate([r.hits[:, 1] for r in rolls])).astype(int).tolist()
    return Limits(
        max(0, low - missing // 2), min(127, high + missing - missing // 2), max(r.end for r in rolls), tuple(drums)
    )


def pianoroll_figure(
    rolls: Sequence[tuple[str, Roll]], limits: Limits | None = None, line_quarters: float = 32.0, width: float = 13.0
) -> Figure:
    """Draw rolls under one another on the same axes.

    Args:
        rolls: title and notes of each.
        limits: axes to use; the rolls' own common ones where None.
        line_quarters: quarter notes in a line, more where the piece would need too many lines.
        width: inches of a full line.

    Returns:
        A matplotlib Figure; save it with `figure_png`.
    """
    from matplotlib.figure import Figure

    limits = limits or shared_limits([roll for _, roll in rolls])
    span = max(line_quarters, np.ceil(limits.end / _MOST_LINES / 16) * 16)
    lines = max(1, int(np.ceil((limits.end - 1e-6) / span)))
    if lines == 1:
        span = max(8.0, *(_last_bar_line(roll) for _, roll in rolls))
    height = min(4.0, max(1.3, 0.055 * (limits.high + 0.5 - limits.bottom))) + 0.35
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
    stop = min(left + span, _last_bar_line(roll))
    axis.set_xlim(left - 0.002 * span, left + span * 1.002)
    _draw_keyboard(axis, limits, stop > left)
    if stop <= left:
        return
    _draw_grid(axis, limits, left, stop)
    bars = roll.bars[(roll.bars >= left - 1e-6) & (roll.bars <= stop + 1e-6)]
    axis.vlines(np.arange(np.ceil(left), stop), *axis.get_ylim(), color="#e7e5e4", linewidth=0.5, zorder=1)
    axis.vlines([*bars, stop], *axis.get_ylim(), color="#a8a29e", linewidth=0.8, zorder=2)
    numbers = np.searchsorted(roll.bars, bars + 1e-6)
    step = max(1, round(len(bars) / 16))
    axis.set_xticks(bars[::step], [str(n) for n in numbers[::step]], fontsize=8, color="#57534e")
    _draw_notes(axis, roll, np.flatnonzero((roll.start < stop) & (roll.start + roll.duration > left)))
    _draw_drums(axis, roll.hits[(roll.hits[:, 0] >= left) & (roll.hits[:, 0] < stop)], limits)


def _last_bar_line(roll: Roll) -> float:
    """Return the bar line at or after the end of the last note."""
    length = roll.bars[-1] - roll.bars[-2] if len(roll.bars) > 1 else 4.0
    after = roll.bars[roll.bars >= roll.end - 1e-6]
    return float(after[0] if len(after) else roll.bars[-1] + length)


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
        colour = _TRACK_COLOURS[roll.track[i] % len(_TRACK_COLOURS)]
        pale.append(to_rgba(colour, 0.4 + 0.5 * min(1.0, roll.velocity[i] / 110)))
        dark.append(to_rgba(colour))
    axis.add_collection(PatchCollection(bodies, facecolors=pale, edgecolors="none", zorder=3))
    axis.add_collection(PatchCollection(heads, facecolors=dark, edgecolors="none", zorder=4))


def _draw_drums(axis: Axes, hits: np.ndarray, limits: Limits) -> None:
    """Draw drums as strokes in the lane under the notes, a row for each drum, paler where softer."""
    from matplotlib.colors import to_rgba

    if not len(hits):
        return
    rows = limits.bottom + (np.searchsorted(limits.drums, hits[:, 1]) + 0.1) * _DRUM_ROW
    colours = [to_rgba(_DRUM_COLOUR, 0.4 + 0.6 * min(1.0, velocity / 110)) for velocity in hits[:, 2]]
    axis.vlines(hits[:, 0] + 0.03, rows, rows + 0.8 * _DRUM_ROW, colors=colours, linewidth=2.2, zorder=4)


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
    if limits.drums and named:
        marked = [limits.bottom + len(limits.drums) * _DRUM_ROW / 2, *marked]
        names = ["drums", *names]
    axis.set_yticks(marked, names, fontsize=8, color="#57534e")
    axis.set_xticks([])
    axis.set_ylim(limits.bottom, limits.high + 0.5)
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)


def _draw_legend(part: SubFigure, axis: Axes, roll: Roll) -> None:
    """Write the names of the tracks where there are several; at most eight fit."""
    from matplotlib.patches import Patch

    if len(roll.names) < 2:
        return
    shown = roll.names[: len(_TRACK_COLOURS)]
    handles = [Patch(color=_TRACK_COLOURS[i], label=name[:24]) for i, name in enumerate(shown)]
    if len(roll.names) > len(shown):
        handles.append(Patch(color="none", label=f"and {len(roll.names) - len(shown)} more"))
    axis.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=5, fontsize=8, frameon=False, borderaxespad=0.1
    )


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
    picture = figure_png(pianoroll_figure([(title.replace("$", r"\$"), roll)]))
    atomic_write(png, picture, overwrite=overwrite)
    missing = sum(len(track.notes) for track in score.tracks) - len(roll.start) - len(roll.hits)
    return [f"{missing} notes after quarter {_LAST_QUARTER:.0f} are not drawn"] if missing else []
