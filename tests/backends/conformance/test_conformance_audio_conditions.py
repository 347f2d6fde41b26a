"""Conditions and batches of DiffRhythm, once for every backend."""

from __future__ import annotations

import numpy as np
import pytest
import tolerance
from audio_toys import conditioning_of, loss_tolerance

from musiclora.convert.errors import DataError


def near(toy, expected):
    """A loss in another order of summation."""
    return pytest.approx(expected, rel=loss_tolerance(toy.config, toy.batch()["text"].shape[1]))


def test_load_says_what_the_model_is(flow_toy):
    model, config = flow_toy.load(), flow_toy.config
    assert model.max_frames == config.max_frames
    assert model.has_duration == config.duration_embedding


def test_default_targets_are_attention_embeddings_and_output(flow_toy):
    expected = 4 * flow_toy.config.depth + 2 * (2 + flow_toy.config.duration_embedding) + 2
    assert len(flow_toy.adapted().read_adapter()) == 2 * expected


def test_style_of_the_model_stands_in_where_a_batch_names_none(flow_one):
    model, batch = flow_one.load(), flow_one.batch()
    style = batch["style"][0]
    bare = {key: value for key, value in batch.items() if key != "style"}
    named = {**batch, "style": np.repeat(style[None], 2, axis=0)}
    expected, without = model.loss(named), model.loss(bare)
    assert expected.total != near(flow_one, without.total)
    model.set_style(style)
    np.testing.assert_array_equal(model.read_style(), style)
    assert model.loss(bare).total == near(flow_one, expected.total)
    assert model.loss(batch).total == near(flow_one, flow_one.load().loss(batch).total)  # named: its own
    dropped = {**bare, "drop_style": np.array(True)}
    assert model.loss(dropped).total == near(flow_one, without.total)
    model.set_style(None)
    assert model.read_style() is None
    assert model.loss(bare) == without


def test_conditions_that_a_batch_leaves_out_are_zeros(flow_one):
    model, batch = flow_one.load(), flow_one.batch()
    optional = ("cond", "text", "style")
    left_out = model.loss({key: value for key, value in batch.items() if key not in optional})
    zeros = model.loss({**batch, **{key: np.zeros_like(batch[key]) for key in optional}})
    dropped = model.loss({**batch, **{key: np.array(True) for key in ("drop_audio", "drop_text", "drop_style")}})
    assert left_out.total == near(flow_one, zeros.total)
    assert dropped.total == near(flow_one, zeros.total)


def test_padding_is_seen_but_not_scored(flow_one):
    model, batch = flow_one.load(), flow_one.batch()
    assert model.weight(batch) == batch["valid"].sum() * flow_one.config.mel_dim
    halves = []
    for valid in (batch["valid"], ~batch["valid"], np.ones_like(batch["valid"])):
        halves.append(model.loss({**batch, "valid": valid}).total)
    assert halves[0] + halves[1] == pytest.approx(halves[2], rel=tolerance.rounding(batch["latents"].size))


BAD_BATCHES = {
    "latents of other channels": ("latents", lambda v: v[..., :-1]),
    "noise of another length": ("noise", lambda v: v[:, :-1]),
    "a time for one row": ("time", lambda v: v[:1]),
    "a time above one": ("time", lambda v: v + 1),
    "a time below zero": ("time", lambda v: v - 1),
    "a time that is no number": ("time", lambda v: v * np.nan),
    "valid of another shape": ("valid", lambda v: v[:, :-1]),
    "a narrow style": ("style", lambda v: v[:, :100]),
    "a phoneme beyond the table": ("text", lambda v: v + 100),
    "a negative phoneme": ("text", lambda v: v - 100),
    "known latents of other channels": ("cond", lambda v: v[..., :-1]),
    "a start for one row": ("start_time", lambda v: v[:1]),
}


@pytest.mark.parametrize("problem", BAD_BATCHES)
def test_loss_of_a_batch_that_does_not_fit_is_one_line(flow_one, problem):
    key, spoil = BAD_BATCHES[problem]
    batch = flow_one.batch()
    with pytest.raises(DataError, match=key) as caught:
        flow_one.load().loss({**batch, key: spoil(batch[key])})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["latents", "noise", "time", "valid", "start_time"])
def test_loss_of_a_batch_that_lacks_something_names_it(flow_one, key):
    with pytest.raises(DataError, match=key):
        flow_one.load().loss({k: v for k, v in flow_one.batch().items() if k != key})


def test_rows_longer_than_the_model_are_refused(flow_one):
    long = flow_one.batch(length=flow_one.config.max_frames + 1)
    with pytest.raises(DataError, match="at most 40"):
        flow_one.load().loss(long)
    with pytest.raises(DataError, match="at most 40"):
        flow_one.load().prepare(conditioning_of(long))


def test_velocity_of_latents_that_were_not_prepared_for_is_one_line(flow_one):
    model, batch = flow_one.load(), flow_one.batch()
    prepared = model.prepare(conditioning_of(batch))
    with pytest.raises(DataError) as caught:
        model.velocity(batch["noise"][:, :-1], 0.5, prepared, 0.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "style", [np.zeros(511), np.full(512, np.nan), np.zeros((1, 512))], ids=["narrow", "nan", "rows"]
)
def test_a_style_that_is_none_is_refused(flow_one, style):
    with pytest.raises(DataError):
        flow_one.load().set_style(style.astype(np.float32))
