"""Bar lines of a score, by its own metres."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symusic import Score


def bar_lines(score: Score, stop: int) -> list[int]:
    """List the bar lines of a score in ticks, from 0 to the first at or after stop.

    A bar has four quarters before the first metre. A new metre begins a bar; impossible metres are passed over.
    """
    quarter = int(score.ticks_per_quarter)
    metres = sorted((max(0, int(m.time)), int(m.numerator), int(m.denominator)) for m in score.time_signatures)
    changes = {time: max(1, quarter * 4 * above // below) for time, above, below in metres if above > 0 and below > 0}
    length = changes.pop(0, 4 * quarter)
    coming = sorted(changes, reverse=True)
    lines = [0]
    while lines[-1] < stop:
        line = lines[-1] + length
        if coming and coming[-1] <= line:
            line = coming.pop()
            length = changes[line]
        lines.append(line)
    return lines
