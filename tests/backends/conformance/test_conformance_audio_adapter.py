"""Properties of adapters on the audio transformer, once for every backend and shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tolerance
from audio_toys import (
    SPEC,
    FlowToy,
    conditioning_of,
    loss_tolerance,
    random_tensors,
    velocity_tolerance,
    write_toy,
)
from toys import assert_same

from musiclora.backends import lora_init
from musiclora.convert.adapters.lora import LoraSpec, state_keys
from musiclora.convert.errors import ConfigError, ConvertError, DataError, MusicLoraError


def close(toy, found, expected, guidance=2.0):
    """Two orders of summation in float32."""
    tolerance.assert_near(found, expected, velocity_tolerance(toy.config, expected, guidance))


def near(toy, expected):
    """A loss in another order of summation."""
    return pytest.approx(expected, rel=loss_tolerance(toy.config, toy.batch()["text"].shape[1]))


def summed(toy):
    """The base's tensors with the toy's adapter added in numpy."""
    tensors, state = random_tensors(toy.config), toy.state()
    targets = {key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight")}
    for name in targets:
        key_a, key_b = state_keys(name)
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"] + np.float32(SPEC.scale) * (state[key_b] @ state[key_a])
    return tensors


def test_load_gives_the_checkpoints_values_and_says_what_it_is(flow_toy):
    model, config = flow_toy.load(), flow_toy.config
    assert_same(dict(model.read_weights()), random_tensors(config))
    assert model.linear_shapes() == config.linear_shapes()
    assert (model.latent_channels, model.max_frames) == (config.mel_dim, config.max_frames)
    assert model.has_duration == config.duration_embedding


def test_injection_with_zero_b_changes_nothing(flow_toy):
    model = flow_toy.load()
    before, loss = flow_toy.velocity(model), model.loss(flow_toy.batch())
    model.inject_adapter(SPEC, lora_init.initial(SPEC, model.linear_shapes(), 3))
    close(flow_toy, flow_toy.velocity(model), before)  # products of another form
    assert model.loss(flow_toy.batch()).total == near(flow_toy, loss.total)


def test_injection_changes_the_velocity_as_the_sum_of_weights_says(flow_toy, tmp_path):
    other = FlowToy(
        flow_toy.backend, write_toy(tmp_path / "summed", flow_toy.config, summed(flow_toy)), flow_toy.config
    )
    expected, found = other.velocity(other.load()), flow_toy.velocity(flow_toy.adapted())
    assert np.abs(found - flow_toy.velocity(flow_toy.load())).max() > 0.01  # the adapter does something
    close(flow_toy, found, expected)
    batch = flow_toy.batch()
    assert flow_toy.adapted().loss(batch).total == near(flow_toy, other.load().loss(batch).total)


def test_fuse_equals_the_adapter_and_drops_it(flow_toy):
    model = flow_toy.adapted()
    before = flow_toy.velocity(model)
    model.fuse()
    close(flow_toy, flow_toy.velocity(model), before)
    fused, expected = dict(model.read_weights()), summed(flow_toy)
    for name, value in expected.items():
        # A sum of three products, the scale and the base's weight; the update is smaller than the sum's largest value.
        tolerance.assert_near(fused[name], value, tolerance.rounding(SPEC.rank + 2, 2 * np.abs(value)), name)
    with pytest.raises(MusicLoraError, match="adapter"):
        model.read_adapter()


def test_disabled_adapter_is_the_base_bit_for_bit(flow_toy):
    model, batch = flow_toy.adapted(), flow_toy.batch()
    on, base = flow_toy.velocity(model), flow_toy.load()
    model.set_adapter(False)
    np.testing.assert_array_equal(flow_toy.velocity(model), flow_toy.velocity(base))
    assert model.loss(batch) == base.loss(batch)
    model.set_adapter(True)
    np.testing.assert_array_equal(flow_toy.velocity(model), on)


def test_adapter_read_write_read_is_exact(flow_one):
    model, state = flow_one.adapted(), flow_one.state(seed=5)
    model.write_adapter(state)
    assert_same(model.read_adapter(), state)
    np.testing.assert_array_equal(flow_one.velocity(model), flow_one.velocity(flow_one.adapted(state=state)))


def test_injection_twice_replaces_the_first_adapter(flow_one):
    other = LoraSpec(2, 4.0, 0.0, ("norm_out.linear",))
    model = flow_one.adapted()
    model.inject_adapter(other, flow_one.state(other))
    assert_same(model.read_adapter(), flow_one.state(other))


def test_rslora_scales_by_the_root_of_the_rank(flow_one):
    plain = replace(SPEC, rank=4, alpha=6.0)
    stabilised = replace(SPEC, rank=4, alpha=3.0, rslora=True)  # 3 / sqrt(4) = 6 / 4
    state = flow_one.state(plain)
    found = flow_one.velocity(flow_one.adapted(stabilised, state))
    close(flow_one, found, flow_one.velocity(flow_one.adapted(plain, state)))


def test_default_targets_are_attention_embeddings_and_output(flow_toy):
    expected = 4 * flow_toy.config.depth + 2 * (2 + flow_toy.config.duration_embedding) + 2
    assert len(flow_toy.adapted().read_adapter()) == 2 * expected


def test_target_that_matches_nothing_raises_and_names_it(flow_one):
    with pytest.raises(ConfigError, match="c_attn"):
        flow_one.load().inject_adapter(replace(SPEC, targets=("q_proj", "c_attn")), {})


def test_write_adapter_names_all_problems_at_once_and_changes_nothing(flow_one):
    model, state = flow_one.adapted(), flow_one.state(seed=5)
    missing, mis_shaped = sorted(state)[0], sorted(state)[1]
    del state[missing]
    state[mis_shaped] = state[mis_shaped].T
    state["transformer_blocks.9.self_attn.q_proj.lora_A.weight"] = np.zeros((3, 64), np.float32)
    with pytest.raises(ConvertError) as caught:
        model.write_adapter(state)
    for name in (missing, mis_shaped, "transformer_blocks.9"):
        assert name in str(caught.value)
    assert_same(model.read_adapter(), flow_one.state())


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


def test_velocity_with_a_time_a_row_equals_row_by_row(flow_toy):
    model, batch = flow_toy.load(), flow_toy.batch()
    conditioning = conditioning_of(batch)
    together = model.velocity(batch["noise"], batch["time"], model.prepare(conditioning), 1.5)
    for row in range(2):
        alone = {key: value[row : row + 1] for key, value in conditioning.items()}
        found = model.velocity(batch["noise"][row : row + 1], float(batch["time"][row]), model.prepare(alone), 1.5)
        close(flow_toy, found, together[row : row + 1], 1.5)


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
