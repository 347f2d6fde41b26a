"""Packing: pieces and windows of long pieces laid into rows of a few fixed lengths."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ENOUGH = 0.04  # share of padding at which the search for better row lengths ends; the promise is 0.05
SHORTEST_ROW = 512  # shorter rows waste time on small matrix products


@dataclass(frozen=True)
class Unit:
    """Part of one piece that lies whole in one row.

    Attributes:
        piece: index of the piece.
        start: first token of the piece's wrapped sequence (BOS, tokens, EOS).
        stop: one past the last.
        scored: first token that is a target; those before it are context of an earlier window.
    """

    piece: int
    start: int
    stop: int
    scored: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def split_into_windows(piece: int, length: int, limit: int) -> list[Unit]:
    """Units of a sequence: one where it fits, else full windows in which every token but the first is scored once.

    Args:
        piece: index of the piece.
        length: tokens of the wrapped sequence.
        limit: tokens in a window, at least 2.
    """
    if length < 2:
        return []
    if length <= limit:
        return [Unit(piece, 0, length, 1)]
    context = max(1, limit // 4)
    count = 1 + -(-(length - limit) // (limit - context))
    # The starts are spread evenly, so that all windows are full and the last one needs no padding.
    starts = [round(k * (length - limit) / (count - 1)) for k in range(count)]
    ends = [s + limit for s in starts]
    return [Unit(piece, s, s + limit, 1 if k == 0 else ends[k - 1]) for k, s in enumerate(starts)]


def pack_best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best fit, longest first: indices of lengths in bins of at most capacity.

    Args:
        lengths: each at most capacity.
        capacity: tokens in a bin.
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, bin), rising
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
    """Row lengths, at most `levels`, that waste least when each fill is rounded up to one of them.

    Args:
        fills: tokens in each row.
        levels: how many lengths are allowed.
        grain: lengths are multiples of this, or limit itself.
        limit: longest length allowed.
    """
    # Dynamic programme over the rounded fills: best[j] = least cells that hold all rows up to size j.
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
    """Rows as lists of unit indices, with the length of each row."""

    rows: list[list[int]]
    lengths: list[int]

    def padding(self, unit_lengths: Sequence[int]) -> float:
        """Share of cells that hold no token."""
        cells = sum(self.lengths)
        return 1 - sum(unit_lengths[i] for row in self.rows for i in row) / cells if cells else 0.0


def best_packing(lengths: Sequence[int], limit: int) -> Packing:
    """Lay units into rows with little padding and few row lengths.

    Short rows are preferred (attention costs their square), then few different lengths, as long as padding stays
    under 4 %; where no three multiples of 64 reach that, more and finer lengths are allowed.

    Args:
        lengths: tokens of each unit, each at most limit.
        limit: longest row.
    """
    best: tuple[float, Packing] | None = None
    packed = {c: pack_best_fit(lengths, c) for c in _capacities(max(lengths), limit)}
    for levels, grain in ((1, 64), (2, 64), (3, 64), (3, 16), (8, 16), (24, 1)):
        for bins in packed.values():
            fills = [sum(lengths[i] for i in row) for row in bins]
            sizes = choose_levels(fills, levels, grain, limit)
            found = Packing(bins, [sizes[bisect.bisect_left(sizes, f)] for f in fills])
            waste = found.padding(lengths)
            if waste <= ENOUGH:
                return found
            if best is None or waste < best[0]:
                best = (waste, found)
    return best[1] if best else Packing([], [])


def _capacities(longest: int, limit: int) -> list[int]:
    low = min(limit, max(-(-longest // 64) * 64, SHORTEST_ROW))
    steps = np.unique(np.linspace(low, limit, 6).astype(int) // 64 * 64)
    return sorted({low, limit, *(int(s) for s in steps if low <= s <= limit)})
