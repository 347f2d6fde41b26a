"""Packing of padded sequences of conditions, so that no row of padding reaches a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from musiclora.convert.errors import DataError


def equal_lengths(rows: np.ndarray, valid: np.ndarray, what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Group the examples that have equally many valid rows; groups need neither padding nor mask.

    Args:
        rows: [B, L, D]; rows of padding may hold anything.
        valid: bool [B, L].
        what: name of the rows, for the message.

    Yields:
        Indices of a group's examples int [n], and their valid rows in order [n, l, D]. Examples without a valid row
        are in no group.

    Raises:
        DataError: shapes that do not fit, or valid values that are not finite.
    """
    valid = np.asarray(valid, bool)
    if rows.ndim != 3 or rows.shape[:2] != valid.shape:
        raise DataError(f"{what}: rows {list(rows.shape)} do not fit a mask {list(valid.shape)}")
    if not np.isfinite(rows[valid]).all():
        raise DataError(f"{what}: values are not finite in rows that are no padding")
    counts = valid.sum(axis=1)
    for count in sorted(set(counts.tolist()) - {0}):
        index = np.flatnonzero(counts == count)
        yield index, rows[index][valid[index]].reshape(len(index), count, rows.shape[-1])


def pad_sequences(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack sequences float32 [n, D] of different lengths.

    Returns:
        float32 [B, S, D], zeros after the end of each, and bool [B, S], True in its rows. S is at least 1.
    """
    longest = max(1, *(len(sequence) for sequence in sequences))
    rows = np.zeros((len(sequences), longest, sequences[0].shape[-1]), np.float32)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = sequence
    return rows, np.arange(longest)[None] < np.array([[len(sequence)] for sequence in sequences])
