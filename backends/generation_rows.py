"""Rows of a generation session in numpy: their tokens, lengths, and how much of them lies in the cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from musiclora.backends.base import SamplingSpec
from musiclora.convert.errors import DataError, join_problems


class Feed(NamedTuple):
    """Tokens that must pass through the model before the next draw.

    Attributes:
        tokens: int32 [B, n]; row b feeds its first counts[b] tokens, the others are any ids.
        starts: int64 [B], position of each row's first token.
        counts: int64 [B]; 0 for a row that has ended.
        together: whether the rows that go on feed equal positions. Then every row, ended or not, may feed all n tokens
            at them: what the cache of an ended row holds from there on is not relied upon.
    """

    tokens: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    together: bool


class GenerationRows:
    """State of a session that does not lie on the device, and validation of its calls.

    The cache of row b holds its tokens before cached[b]. Given tokens are collected here and pass through the model
    when the next draw needs them, so that several extensions cost one pass.

    Attributes:
        capacity: most tokens of a row.
        tokens: int32 [B, capacity].
        lengths: int64 [B].
        cached: int64 [B], at most lengths.
        ended: bool [B], True after a row drew eos_id.
    """

    def __init__(self, batch: int, capacity: int, spec: SamplingSpec, *, vocab_size: int, n_positions: int) -> None:
        """Begin with empty rows.

        Raises:
            DataError: numbers or a pad_id that do not fit the model; all at once.
        """
        problems = []
        if batch < 1:
            problems.append(f"{batch} rows")
        if not 0 < capacity <= n_positions:
            problems.append(f"a capacity of {capacity} tokens; the model takes 1 to {n_positions}")
        if not 0 <= spec.pad_id < vocab_size:
            problems.append(f"pad_id is {spec.pad_id}; allowed are 0 to {vocab_size - 1}")
        if problems:
            raise DataError(f"start_generation: {join_problems(problems)}")
        self.capacity = capacity
        self.tokens = np.zeros((batch, capacity), np.int32)
        self.lengths, self.cached = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
        self.ended = np.zeros(batch, bool)
        self._spec, self._vocab_size = spec, vocab_size

    def extend(self, tokens: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Append given tokens; see `base.GenerationSession.extend`."""
        tokens, batch = np.asarray(tokens), len(self.lengths)
        if tokens.ndim != 2 or len(tokens) != batch or tokens.dtype.kind not in "iu":
            raise DataError(
                f"extend needs integer tokens [{batch}, n]; got {tokens.dtype} of shape {list(tokens.shape)}"
            )
        width = tokens.shape[1]
        taken = np.full(batch, width) if counts is None else _integers(counts, batch, "extend: counts")
        if not (0 <= taken.min() and taken.max() <= width):
            raise DataError(f"extend: counts go from {taken.min()} to {taken.max()}; allowed are 0 to {width}")
        used = np.arange(width) < taken[:, None]
        problems = []
        if used.any() and not 0 <= tokens[used].min() <= tokens[used].max() < self._vocab_size:
            low, high = tokens[used].min(), tokens[used].max()
            problems.append(f"ids go from {low} to {high}; allowed are 0 to {self._vocab_size - 1}")
        if (longest := int((self.lengths + taken).max())) > self.capacity:
            problems.append(f"a row would have {longest} tokens; this session holds {self.capacity}")
        if problems:
            raise DataError(f"extend: {join_problems(problems)}")
        for row, (length, count) in enumerate(zip(self.lengths, taken, strict=True)):
            self.tokens[row, length : length + count] = tokens[row, :count]
        self.lengths = self.lengths + taken
        self.ended = self.ended & (taken == 0)

    def rewind(self, lengths: np.ndarray) -> None:
        """Cut each row back; see `base.GenerationSession.rewind`."""
        wanted = _integers(lengths, len(self.lengths), "rewind: lengths")
        if (wrong := np.flatnonzero((wanted < 0) | (wanted > self.lengths))).size:
            row = wrong[0]
            raise DataError(f"rewind: row {row} to {wanted[row]} tokens; allowed are 0 to {self.lengths[row]}")
        self.ended = self.ended & (wanted == self.lengths)
        self.lengths, self.cached = wanted, np.minimum(self.cached, wanted)

    def check_draw(self, uniforms: np.ndarray) -> np.ndarray:
        """Return the draws as float32 [steps, B].

        Raises:
            DataError: another shape, an empty row, or rows beyond the capacity.
        """
        found, batch = np.asarray(uniforms, np.float32), len(self.lengths)
        if found.ndim != 2 or found.shape[1] != batch:
            raise DataError(f"draw needs uniforms [steps, {batch}]; got {list(found.shape)}")
        if (empty := np.flatnonzero(self.lengths == 0)).size:
            raise DataError(f"draw: row {empty[0]} has no token; extend it first")
        going = self.lengths[~self.ended]
        if going.size and (longest := int(going.max()) + len(found)) > self.capacity:
            raise DataError(f"draw: a row would have {longest} tokens; this session holds {self.capacity}")
        return found

    def next_feed(self) -> Feed:
        """Collect the tokens before the next draw, at least the last one of each row that has not ended.

        From now on the cache is taken to end where they start, until `add_drawn` tells that they were computed.
        """
        going = ~self.ended
        starts = np.minimum(self.cached, self.lengths - 1)
        first, last = starts[going], self.lengths[going]
        together = bool((first == first[0]).all() and (last == last[0]).all())
        if together:
            starts = np.full_like(starts, first[0])
        counts = np.where(going, self.lengths - starts, 0)
        self.cached = np.minimum(self.cached, starts)
        at = np.minimum(starts[:, None] + np.arange(counts.max()), self.capacity - 1)
        return Feed(np.take_along_axis(self.tokens, at, axis=1), starts, counts, together)

    def in_step(self) -> bool:
        """Tell whether the rows that have not ended are equally long and none that has ended is longer.

        Then every row may feed its next token at the same position.
        """
        going = self.lengths[~self.ended]
        return bool((going == going[0]).all() and self.lengths.max() <= going[0])

    def add_drawn(self, drawn: np.ndarray) -> None:
        """Append drawn tokens [B, steps] up to eos_id; all but the last of them have passed through the model."""
        steps = drawn.shape[1]
        for row in np.flatnonzero(~self.ended):
            start = self.lengths[row]
            count = steps
            if self._spec.eos_id is not None:
                ends = np.flatnonzero(drawn[row] == self._spec.eos_id)
                if ends.size:
                    count, self.ended[row] = int(ends[0]) + 1, True
            self.tokens[row, start : start + count] = drawn[row, :count]
            self.lengths[row] = start + count
            self.cached[row] = start + count - 1


def _integers(values: np.ndarray, batch: int, what: str) -> np.ndarray:
    found = np.asarray(values)
    if found.shape != (batch,) or found.dtype.kind not in "iu":
        raise DataError(f"{what} need integers [{batch}]; got {found.dtype} of shape {list(found.shape)}")
    return found.astype(np.int64)


class RowSession:
    """The part of a generation session that does not lie on the device."""

    def __init__(self, rows: GenerationRows) -> None:
        self._rows = rows

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each row, int64 [B]."""
        return self._rows.lengths.copy()

    def extend(self, tokens: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Append given tokens, which the model reads at the next draw; see `backends.base.GenerationSession`."""
        self._rows.extend(tokens, counts)

    def rewind(self, lengths: np.ndarray) -> None:
        """Cut each row back; see `backends.base.GenerationSession`."""
        self._rows.rewind(lengths)
