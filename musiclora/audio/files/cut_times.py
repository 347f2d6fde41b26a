"""Times at which recordings are cut: a grid of one length, or a file."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from musiclora.errors import DataError, join_problems

LEFTOVERS = ("keep", "merge", "drop")
SHORTEST_SECONDS = 1.0  # a shorter rest joins the last segment
LONGEST_SECONDS = 1800.0  # of one segment, which memory holds whole
_SLACK_SECONDS = 0.05  # by which a given end may exceed the recording
_FILE_NAME = re.compile(r"[\w][\w .()+-]*", re.UNICODE)


@dataclass(frozen=True)
class CutSpan:
    """Segment in seconds of a recording, by its path below the folder; the name is empty or given."""

    source: str
    start: float
    end: float
    name: str = ""


def grid_spans(
    begin: float, end: float, seconds: float, overlap: float, leftover: str
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Cover a span with segments of equal length that overlap.

    The rest at the end is a segment of its own with `keep`, part of the last one with `merge`, and dropped with
    `drop`. A rest under a second always joins the last segment.

    Returns:
        (start, end) of the segments, and of the dropped rests.
    """
    step, found = seconds - overlap, [(begin, min(begin + seconds, end))]
    if end - begin < seconds - _SLACK_SECONDS and leftover == "drop":
        return [], [(begin, end)]
    while (start := begin + len(found) * step) + seconds <= end + 1e-6:
        found.append((start, min(start + seconds, end)))
    rest = end - found[-1][1]
    if leftover == "merge" or rest < SHORTEST_SECONDS:
        found[-1] = (found[-1][0], end)
    elif leftover == "drop":
        return found, [(found[-1][1], end)]
    else:
        found.append((start, end))
    return found, []


def read_cut_times(path: Path, lengths: Mapping[str, float]) -> list[CutSpan]:
    """Read a file of times: one segment a line, `recording, start, end[, name]`.

    Times are seconds (83.5), mm:ss or h:mm:ss with decimals; an empty end or `-` is the recording's end. A recording is
    given by its path below the folder, with or without its ending, in double quotes where it has a comma. Lines that
    begin with #, empty ones and the headings of a table (`…, start, end`) are skipped.

    Args:
        path: the file, UTF-8.
        lengths: seconds of each recording, by its path.

    Raises:
        DataError: lines that cannot be read or do not fit their recordings; all at once.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--times {path}: cannot be read as text ({getattr(error, 'strerror', None) or error})"
        ) from error
    pieces, problems = [], []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#") and not _is_heading(line):
            try:
                pieces.append(_parse_line(line, lengths))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
    if problems:
        raise DataError(f"--times {path}: {join_problems(problems)}")
    if not pieces:
        raise DataError(f"--times {path}: holds no line `recording, start, end`")
    return pieces


def _is_heading(line: str) -> bool:
    """Return True for a heading line of a CSV table."""
    return [part.strip().lower() for part in line.split(",")][1:3] == ["start", "end"]


def _parse_line(line: str, lengths: Mapping[str, float]) -> CutSpan:
    parts = [part.strip() for part in next(csv.reader([line], skipinitialspace=True))]
    if not 3 <= len(parts) <= 4:
        raise ValueError(f"expected `recording, start, end` or `recording, start, end, name`, found {line.strip()!r}")
    matches = [s for s in lengths if parts[0] in (s, s.rpartition(".")[0])]
    if len(matches) != 1:
        raise ValueError(f"{'several recordings are' if matches else 'no recording is'} called {parts[0]!r}")
    total = lengths[matches[0]]
    start = seconds_of(parts[1])
    end = total if parts[2] in ("", "-") else seconds_of(parts[2])
    if not 0 <= start < end <= total + _SLACK_SECONDS:
        raise ValueError(f"{parts[1]} to {parts[2]} does not lie in {matches[0]} ({total:.2f} s)")
    if min(end, total) - start > LONGEST_SECONDS:
        raise ValueError(f"{end - start:.0f} s are more than a segment may have ({LONGEST_SECONDS:g} s)")
    name = parts[3] if len(parts) == 4 else ""
    if name and not _FILE_NAME.fullmatch(name):
        raise ValueError(f"the name {name!r} has characters that a file name should not have")
    return CutSpan(matches[0], start, min(end, total), name)


def seconds_of(text: str) -> float:
    """Parse `83.5`, `1:23.5` or `0:01:23.5` into seconds.

    Raises:
        ValueError: another format.
    """
    found = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", text)
    if not found:
        raise ValueError(f"{text!r} is no time; write seconds (83.5), mm:ss or h:mm:ss")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    if (found[2] and seconds >= 60) or (found[1] and minutes >= 60):
        raise ValueError(
            f"{text!r} has 60 or more seconds or minutes after a colon; write plain seconds, or carry them"
        )
    return 3600 * hours + 60 * minutes + seconds
