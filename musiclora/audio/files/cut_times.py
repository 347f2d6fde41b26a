"""Where recordings are cut: a grid of one length, or a file of times."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from musiclora.errors import DataError, join_problems

LEFTOVERS = ("keep", "merge", "drop")
MIN_SECONDS = 1.0  # seconds; a shorter rest is never a segment of its own
LONGEST = 1800.0  # seconds of one segment, which is held in memory
_SLACK = 0.05  # seconds by which a given end may exceed the recording
_NAME = re.compile(r"[\w][\w .()+-]*", re.UNICODE)


@dataclass(frozen=True)
class CutSpan:
    """One segment: seconds of a recording (its path below the folder), and a name of its own or an empty one."""

    source: str
    start: float
    end: float
    name: str = ""


def grid_spans(
    begin: float, end: float, seconds: float, overlap: float, leftover: str
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Segments that cover a span, each `seconds` long and sharing `overlap` with the one before; and what is dropped.

    What is left at the end is a segment of its own with `keep`, part of the last one with `merge`, and dropped with
    `drop`. Less than a second that no other segment holds always lengthens the last one.
    """
    step, found = seconds - overlap, [(begin, min(begin + seconds, end))]
    if end - begin < seconds - _SLACK and leftover == "drop":
        return [], [(begin, end)]
    while (start := begin + len(found) * step) + seconds <= end + 1e-6:
        found.append((start, min(start + seconds, end)))
    rest = end - found[-1][1]
    if leftover == "merge" or rest < MIN_SECONDS:
        found[-1] = (found[-1][0], end)
    elif leftover == "drop":
        return found, [(found[-1][1], end)]
    else:
        found.append((start, end))
    return found, []


def read_cut_times(path: Path, lengths: Mapping[str, float]) -> list[CutSpan]:
    """Read a file of times: one segment a line, `recording, start, end[, name]`.

    Times are seconds (83.5), mm:ss or h:mm:ss with decimals; an empty end or `-` is the recording's end. The recording
    is its path below the folder, its ending may be left out; one with a comma stands in double quotes. Lines that begin
    with #, empty ones and the headings of a table (`…, start, end`) are skipped.

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
                pieces.append(_piece(line, lengths))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
    if problems:
        raise DataError(f"--times {path}: {join_problems(problems)}")
    if not pieces:
        raise DataError(f"--times {path}: holds no line `recording, start, end`")
    return pieces


def _is_heading(line: str) -> bool:
    """Whether a line names the columns, as tables of comma-separated values do."""
    return [part.strip().lower() for part in line.split(",")][1:3] == ["start", "end"]


def _piece(line: str, lengths: Mapping[str, float]) -> CutSpan:
    parts = [part.strip() for part in next(csv.reader([line], skipinitialspace=True))]
    if not 3 <= len(parts) <= 4:
        raise ValueError(f"expected `recording, start, end` or `recording, start, end, name`, found {line.strip()!r}")
    matches = [s for s in lengths if parts[0] in (s, s.rpartition(".")[0])]
    if len(matches) != 1:
        raise ValueError(f"{'several recordings are' if matches else 'no recording is'} called {parts[0]!r}")
    total = lengths[matches[0]]
    start = seconds_of(parts[1])
    end = total if parts[2] in ("", "-") else seconds_of(parts[2])
    if not 0 <= start < end <= total + _SLACK:
        raise ValueError(f"{parts[1]} to {parts[2]} does not lie in {matches[0]} ({total:.2f} s)")
    if min(end, total) - start > LONGEST:
        raise ValueError(f"{end - start:.0f} s are more than a segment may have ({LONGEST:g} s)")
    name = parts[3] if len(parts) == 4 else ""
    if name and not _NAME.fullmatch(name):
        raise ValueError(f"the name {name!r} has characters that a file name should not have")
    return CutSpan(matches[0], start, min(end, total), name)


def seconds_of(text: str) -> float:
    """Seconds of `83.5`, `1:23.5` or `0:01:23.5`.

    Raises:
        ValueError: something else.
    """
    found = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", text)
    if not found:
        raise ValueError(f"{text!r} is no time; write seconds (83.5), mm:ss or h:mm:ss")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds
