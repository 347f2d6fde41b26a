"""Lines of the table of distances."""

from __future__ import annotations

from musiclora.evaluation.audio_distances import Spread

TABLE_HEAD = f"{'':24}{'distance':>10}{'95 % interval':>22}{'real against real':>20}{'range':>22}"


def distance_row(name: str, found: Spread, real: Spread | None, form: str) -> str:
    """Format a distance with its interval, and real against real where it is known."""
    row = f"{name:24}{found.value:>10{form}}{_range(found, form):>22}"
    return f"{row}{real.value:>20{form}}{_range(real, form):>22}" if real else row


def reduction_line(name: str, part: Spread) -> str:
    """Format the share by which a distance is smaller than the baseline's."""
    interval = f"95 % interval of the share smaller: {part.low:.1%} to {part.high:.1%}"
    word = "larger" if part.value < 0 else "smaller"
    return f"{name}: {abs(part.value):.1%} {word} than the baseline's ({interval})"


def _range(part: Spread, form: str) -> str:
    return f"{part.low:{form}} to {part.high:{form}}"
