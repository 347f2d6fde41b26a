"""Axes and boxes of drawn piano rolls."""

from __future__ import annotations

from matplotlib.colors import to_hex
from symusic import Score

from musiclora.reporting.piano_roll import pianoroll_figure
from musiclora.reporting.roll import roll_of


def axes_of(score: Score, **size) -> list:
    return list(pianoroll_figure([("", roll_of(score))], **size).subfigs[0].axes)


def boxes_of(axis, gid: str) -> list[tuple[float, float, float, float, str, float]]:
    """Return left, right, bottom, top, colour and opacity of what is drawn under a name."""
    found = []
    for collection in (c for c in axis.collections if c.get_gid() == gid):
        for path, colour in zip(collection.get_paths(), collection.get_facecolors(), strict=True):
            box = path.get_extents()
            found.append((box.x0, box.x1, box.y0, box.y1, to_hex(colour[:3]), float(colour[3])))
    return found
