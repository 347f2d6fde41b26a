"""ACE-Step's batches without a framework: packing of conditions, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from acestep_flow_toys import CONFIGS, FRAMES, conditioning_of, flow_batch, uneven_batch

from musiclora.backends import acestep_batches
from musiclora.convert.errors import DataError

CONFIG = CONFIGS["xl"]
NULL = np.arange(CONFIG.encoder.hidden, dtype=np.float32)


def test_valid_rows_move_to_the_front_and_padding_becomes_zero():
    condition = np.arange(12, dtype=np.float32).reshape(2, 6, 1)
    valid = np.array([[False, True, False, True, False, False], [False, False, False, True, False, False]])
    condition[~valid] = np.nan
    rows, kept = acestep_batches.pack_condition(condition, valid, np.zeros(1, np.float32))
    assert rows[..., 0].tolist() == [[1, 3], [9, 0]]
    assert kept.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("drop", [np.array(True), np.array([True, True])], ids=["scalar", "each"])
def test_a_dropped_condition_is_one_row_of_the_null_condition(drop):
    batch = flow_batch(CONFIG)
    rows, kept = acestep_batches.pack_condition(batch["condition"], batch["condition_valid"], NULL, drop)
    np.testing.assert_array_equal(rows, np.stack([NULL[None], NULL[None]]))
    assert kept.all()


def test_a_batch_may_hold_dropped_and_empty_conditions():
    batch = uneven_batch(CONFIG)
    batch["condition_valid"][2] = False
    drop = np.array([False, True, False])
    rows, kept = acestep_batches.pack_condition(batch["condition"], batch["condition_valid"], NULL, drop)
    np.testing.assert_array_equal(rows[0], batch["condition"][0])
    np.testing.assert_array_equal(rows[1, 0], NULL)
    assert not rows[2].any()
    assert kept.sum(axis=1).tolist() == [7, 1, 0]


def test_inputs_hold_zeros_in_padding_frames_and_leave_the_batch_alone():
    batch = uneven_batch(CONFIG, padding=np.nan)
    before = {key: value.copy() for key, value in batch.items()}
    found = acestep_batches.flow_inputs(batch, NULL)
    for key in ("latents", "noise", "context"):
        np.testing.assert_array_equal(found[key][batch["valid"]], batch[key][batch["valid"]])
        assert not found[key][~batch["valid"]].any()
    for key, value in before.items():
        np.testing.assert_array_equal(batch[key], value, err_msg=key)
    assert acestep_batches.count_values(batch) == (FRAMES + FRAMES // 2 + 9) * CONFIG.latent_dim


def test_a_conditioning_is_valid_everywhere_unless_it_says_otherwise():
    given = conditioning_of(flow_batch(CONFIG))
    del given["valid"]
    shape, found = acestep_batches.conditioning(given, CONFIG, NULL)
    assert shape == (2, FRAMES, CONFIG.latent_dim)
    assert found["valid"].shape == (2, FRAMES)
    assert found["valid"].all()


def without_condition():
    given = {"drop_condition": np.array([False, True])} | flow_batch(CONFIG)
    return {key: value for key, value in given.items() if not key.startswith("condition")}


def test_a_trained_condition_stands_in_but_not_where_it_is_dropped():
    batch = without_condition()
    acestep_batches.check_batch(batch, CONFIG)
    found = acestep_batches.flow_inputs(batch, NULL, own_rows=3)
    assert found["own"].tolist() == [1, 0]
    assert found["condition_valid"].tolist() == [[True] * 3, [True, False, False]]
    np.testing.assert_array_equal(found["condition"][1, 0], NULL)
    assert not found["condition"][0].any()
    own = np.ones((3, len(NULL)), np.float32)
    _, given = acestep_batches.conditioning(conditioning_of(batch), CONFIG, NULL, own)
    np.testing.assert_array_equal(given["condition"][0], own)
    np.testing.assert_array_equal(given["condition"][1, 0], NULL)
    assert given["condition_valid"].tolist() == found["condition_valid"].tolist()


def test_without_a_trained_condition_the_null_condition_stands_in():
    found = acestep_batches.flow_inputs(without_condition(), NULL)
    _, given = acestep_batches.conditioning(conditioning_of(without_condition()), CONFIG, NULL)
    for arrays in (found, given):
        np.testing.assert_array_equal(arrays["condition"], np.stack([NULL[None], NULL[None]]))
        assert arrays["condition_valid"].all()
    assert "own" not in found


@pytest.mark.parametrize("shape", [(0, CONFIG.encoder.hidden), (2, 3), (CONFIG.encoder.hidden,)])
def test_a_trained_condition_of_another_shape_is_refused(shape):
    with pytest.raises(DataError, match="trained condition"):
        acestep_batches.check_trained_condition(np.zeros(shape), CONFIG)


def changed(**changes):
    batch = {**flow_batch(CONFIG, rows=2), **changes}
    return {key: value for key, value in batch.items() if value is not None}


@pytest.mark.parametrize(
    ("batch", "parts"),
    [
        (changed(latents=None), ["needs latents [B, T, 5]"]),
        (changed(noise=None, valid=None), ["noise is missing", "valid is missing"]),
        (
            changed(context=np.zeros((2, FRAMES, 5))),
            [f"context has shape [2, {FRAMES}, 5], expected [2, {FRAMES}, 10]"],
        ),
        (changed(condition_valid=None), ["condition_valid is missing"]),
        (changed(condition=np.zeros((2, 7, 3))), ["condition has shape [2, 7, 3], expected [2, 7, 40]"]),
        (changed(drop_condition=np.ones(3, bool)), ["drop_condition has shape [3], expected a scalar or [2]"]),
        (changed(time=np.array([0.5, 1.5])), ["time goes from 0.5 to 1.5"]),
        (changed(time=np.array([0.5, np.nan])), ["time goes from nan to nan"]),
    ],
    ids=["no latents", "missing", "context", "half", "condition", "drop", "late", "not a number"],
)
def test_a_batch_that_does_not_fit_is_refused(batch, parts):
    with pytest.raises(DataError) as caught:
        acestep_batches.check_batch(batch, CONFIG)
    for part in parts:
        assert part in str(caught.value)


def test_rows_beyond_ten_minutes_are_refused():
    batch = flow_batch(CONFIG, rows=1, frames=acestep_batches.MAX_FRAMES + 1)
    with pytest.raises(DataError, match="15001 frames; this model takes at most 15000"):
        acestep_batches.check_batch(batch, CONFIG)
