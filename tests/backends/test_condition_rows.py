"""Packing of padded sequences."""

from __future__ import annotations

import numpy as np
import pytest

from musiclora.backends.condition_rows import equal_lengths, pad_sequences
from musiclora.convert.errors import DataError


def test_groups_hold_each_example_once_without_its_padding(rng):
    rows = rng.standard_normal((5, 6, 2)).astype(np.float32)
    valid = np.zeros((5, 6), bool)
    for i, places in enumerate([[0, 1], [0, 1, 2, 3, 4, 5], [], [4, 5], [0, 3]]):  # also to the left, and with gaps
        valid[i, places] = True
    rows[~valid] = np.nan
    seen = {}
    for index, group in equal_lengths(rows, valid, "text"):
        assert group.shape == (len(index), valid[index[0]].sum(), 2)
        seen |= dict(zip(index.tolist(), group, strict=True))
    assert sorted(seen) == [0, 1, 3, 4]
    for i, sequence in seen.items():
        np.testing.assert_array_equal(sequence, rows[i][valid[i]])


def test_a_valid_value_that_is_not_finite_is_refused():
    rows, valid = np.full((1, 2, 3), np.inf, np.float32), np.array([[False, True]])
    with pytest.raises(DataError, match="text: values are not finite"):
        list(equal_lengths(rows, valid, "text"))


def test_sequences_are_padded_with_zeros_after_their_end():
    rows, valid = pad_sequences([np.ones((2, 3), np.float32), np.zeros((0, 3), np.float32)])
    assert rows.shape == (2, 2, 3)
    assert valid.tolist() == [[True, True], [False, False]]
    assert rows[0].all()
    assert not rows[1].any()


def test_empty_sequences_have_one_row_of_padding():
    rows, valid = pad_sequences([np.zeros((0, 3), np.float32)] * 2)
    assert rows.shape == (2, 1, 3)
    assert not valid.any()
