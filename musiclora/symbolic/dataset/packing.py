"""Sequence packing: places pieces, and windows of long pieces, into rows of a few fixed lengths."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GOOD_PADDING_SHARE = 0.04  # the search for row lengths stops here; the documented limit is 0.05
SHORTEST_ROW_TOKENS = 512  # shorter rows waste time on small matrix products


@dataclass(frozen=True)
class Unit:
    """Part of one piece in one row.

    Attributes:
        piece: index of the piece.
        start: index of its first token in the sequence that the layout makes of the piece: wrapped in BOS and EOS, or
            with RESTs.
        stop: index after its last token.
        scored: index of the first target; tokens before it are context from the previous window.
        opening: tokens that the layout puts before `start`: a flag and SEPARATORs.
    """

    piece: int
    start: int
    stop: int
    scored: int
    opening: int = 0

    @property
    def length(self) -> int:
        """Tokens in the row."""
        return self.opening + self.stop - self.start

    @property
    def targets(self) -> int:
        """Tokens that are scored; never the first one of the row."""
        return self.stop - max(self.scored, self.start + (self.opening == 0))


def split_into_windows(piece: int, length: int, limit: int) -> list[Unit]:
    """Split a sequence into one unit, or into overlapping full windows that score each token but the first once.

    Args:
        piece: index of the piece.
        length: number of tokens of the wrapped sequence.
        limit: number of tokens in a window, at least 2.
    """
    if length < 2:
        return []
    if length <= limit:
        return [Unit(piece, 0, length, 1)]
    context = max(1, limit // 4)
    count = 1 + -(-(length - limit) // (limit - context))
    # Evenly spread starts make all windows full, so that the last one needs no padding.
    starts = [round(k * (length - limit) / (count - 1)) for k in range(count)]
    ends = [s + limit for s in starts]
    return [Unit(piece, s, s + limit, 1 if k == 0 else ends[k - 1]) for k, s in enumerate(starts)]


def pack_best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack lengths into bins by best-fit decreasing; return the indices in each bin.

    Args:
        lengths: lengths of at most capacity.
        capacity: number of tokens in a bin.
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, bin), ascending
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect.bisect_left(free, (lengths[i], -1))
        if at < len(free):
            left, target = free.pop(at)
        else:
            left, target = capacity, len(bins)
            bins.append([])
        bins[target].append(i)
        bisect.insort(free, (left - lengths[i], target))
    return bins


def choose_levels(fills: Sequence[int], levels: int, grain: int, limit: int) -> list[int]:
    """Choose at most `levels` row lengths that minimise padding when each row is rounded up to one of them.

    Args:
        fills: number of tokens in each row.
        levels: largest number of lengths.
        grain: lengths are multiples of this, or limit itself.
        limit: longest length allowed.
    """
    # Dynamic programming over the rounded fills: best[j] = least cells that hold all rows up to size j.
    sizes, counts = np.unique([min(-(-f // grain) * grain, limit) for f in fills], return_counts=True)
    rows = np.concatenate([[0], np.cumsum(counts)])
    n = len(sizes)
    best = np.full(n + 1, np.inf)
    best[0] = 0
    cuts = []
    for _ in range(min(levels, n)):
        step = np.full(n + 1, np.inf)
        cut = np.zeros(n + 1, int)
        for j in range(1, n + 1):
            cost = best[:j] + (rows[j] - rows[:j]) * sizes[j - 1]
            cut[j] = int(np.argmin(cost))
            step[j] = cost[cut[j]]
        step[0] = 0
        best = step
        cuts.append(cut)
    chosen, j = [], n
    for cut in reversed(cuts):
        if j == 0:
            break
        chosen.append(int(sizes[j - 1]))
        j = int(cut[j])
    return sorted(chosen)


@dataclass(frozen=True)
class Packing:
    """Rows as lists of unit indices, and the length of each row."""

    rows: list[list[int]]
    lengths: list[int]

    def padding(self, unit_lengths: Sequence[int]) -> float:
        """Compute the share of cells without a token."""
        cells = sum(self.lengths)
        return 1 - sum(unit_lengths[i] for row in self.rows for i in row) / cells if cells else 0.0


def best_packing(lengths: Sequence[int], limit: int) -> Packing:
    """Pack units into rows with little padding and few row lengths.

    Among packings with padding under 4 %, few different lengths come first, then short rows. The cost of attention
    grows with the square of the row length. Where no three multiples of 64 reach 4 %, more and finer lengths are
    allowed.

    Args:
        lengths: number of tokens of each unit, at most limit.
        limit: longest row.
    """
    best: tuple[float, Packing] | None = None
    packed = {c: pack_best_fit(lengths, c) for c in _candidate_capacities(max(lengths), limit)}
    for levels, grain in ((1, 64), (2, 64), (3, 64), (3, 16), (8, 16), (24, 1)):
        for bins in packed.values():
            fills = [sum(lengths[i] for i in row) for row in bins]
            sizes = choose_levels(fills, levels, grain, limit)
            found = Packing(bins, [sizes[bisect.bisect_left(sizes, f)] for f in fills])
            waste = found.padding(lengths)
            if waste <= GOOD_PADDING_SHARE:
                return found
            if best is None or waste < best[0]:
                best = (waste, found)
    return best[1] if best else Packing([], [])


def _candidate_capacities(longest: int, limit: int) -> list[int]:
    """List the row capacities to try, from the longest unit to the limit."""
    low = min(limit, max(-(-longest // 64) * 64, SHORTEST_ROW_TOKENS))
    steps = np.unique(np.linspace(low, limit, 6).astype(int) // 64 * 64)
    return sorted({low, limit, *(int(s) for s in steps if low <= s <= limit)})
