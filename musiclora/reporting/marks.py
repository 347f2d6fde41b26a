"""Highlighted bars of piano rolls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from musiclora.reporting.roll import Roll

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARK_COLOUR = "#fde047"


def shade_marked_bars(axis: Axes, roll: Roll, begin: float, stop: float) -> None:
    """Tint the highlighted bars of a roll between two times in quarter notes."""
    for first, last in roll.marked_bars:
        left, right = max(first, begin), min(last, stop)
        if left < right:
            axis.axvspan(left, right, color=MARK_COLOUR, alpha=0.55, linewidth=0, zorder=0.5, gid="marked")
