"""Bar lines of a score, by its own metres."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symusic import Score


def bar_lines(score: Score, stop: int) -> list[int]:
    """List the bar lines of a score in ticks, from 0 to the first at or after stop.

    A bar has four quarters before the first metre. A new metre begins a bar.
    """
    quarter = int(score.ticks_per_quarter)
    metres = sorted((max(0, int(m.time)), int(m.numerator), int(m.denominator)) for m in score.time_signatures)
    changes = {time: max(1, quarter * 4 * above // max(1, below)) for time, above, below in metres}
    times = sorted(changes)
    lines, length = [0], changes.get(0, 4 * quarter)
    while lines[-1] < stop:
        at = lines[-1]
        change = next((time for time in times if at < time <= at + length), None)
        lines.append(at + length if change is None else change)
        length = changes.get(lines[-1], length)
    return lines
