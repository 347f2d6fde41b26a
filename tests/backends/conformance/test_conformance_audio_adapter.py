"""Properties of adapters on the audio transformers, once for every backend, architecture and shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tolerance
from toys import assert_same

from musiclora.backends import lora_init
from musiclora.convert.adapters.lora import state_keys
from musiclora.convert.errors import ConfigError, ConvertError, DataError, MusicLoraError


def close(toy, found, expected, guidance=2.0):
    """Two orders of summation in float32."""
    tolerance.assert_near(found, expected, toy.velocity_tolerance(expected, guidance))


def near(toy, expected):
    """A loss in another order of summation."""
    return pytest.approx(expected, rel=toy.loss_tolerance())


def summed(toy):
    """The base's tensors with the toy's adapter added in numpy."""
    tensors, state = toy.tensors(), toy.state()
    targets = {key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight")}
    for name in targets:
        key_a, key_b = state_keys(name)
        weight = f"{toy.root}{name}.weight"
        tensors[weight] = tensors[weight] + np.float32(toy.spec.scale) * (state[key_b] @ state[key_a])
    return tensors


def test_load_gives_the_checkpoints_values(any_toy):
    model = any_toy.load()
    assert_same(dict(model.read_weights()), any_toy.tensors())
    assert model.linear_shapes() == any_toy.config.linear_shapes()
    assert model.latent_channels == any_toy.batch()["latents"].shape[2]


def test_injection_with_zero_b_changes_nothing(any_toy):
    model = any_toy.load()
    before, loss = any_toy.velocity(model), model.loss(any_toy.batch())
    model.inject_adapter(any_toy.spec, lora_init.initial(any_toy.spec, model.linear_shapes(), 3))
    close(any_toy, any_toy.velocity(model), before)  # products of another form
    assert model.loss(any_toy.batch()).total == near(any_toy, loss.total)


def test_injection_changes_the_velocity_as_the_sum_of_weights_says(any_toy, tmp_path):
    other = any_toy.written(tmp_path / "summed", summed(any_toy))
    expected, found = other.velocity(other.load()), any_toy.velocity(any_toy.adapted())
    assert np.abs(found - any_toy.velocity(any_toy.load())).max() > 0.01  # the adapter does something
    close(any_toy, found, expected)
    batch = any_toy.batch()
    assert any_toy.adapted().loss(batch).total == near(any_toy, other.load().loss(batch).total)


def test_fuse_equals_the_adapter_and_drops_it(any_toy):
    model = any_toy.adapted()
    before = any_toy.velocity(model)
    model.fuse()
    close(any_toy, any_toy.velocity(model), before)
    fused, expected = dict(model.read_weights()), summed(any_toy)
    for name, value in expected.items():
        # A sum of three products, the scale and the base's weight; the update is smaller than the sum's largest value.
        tolerance.assert_near(fused[name], value, tolerance.rounding(any_toy.spec.rank + 2, 2 * np.abs(value)), name)
    with pytest.raises(MusicLoraError, match="adapter"):
        model.read_adapter()


def test_disabled_adapter_is_the_base_bit_for_bit(any_toy):
    model, batch = any_toy.adapted(), any_toy.batch()
    on, base = any_toy.velocity(model), any_toy.load()
    model.set_adapter(False)
    np.testing.assert_array_equal(any_toy.velocity(model), any_toy.velocity(base))
    assert model.loss(batch) == base.loss(batch)
    model.set_adapter(True)
    np.testing.assert_array_equal(any_toy.velocity(model), on)


def test_adapter_read_write_read_is_exact(any_one):
    model, state = any_one.adapted(), any_one.state(seed=5)
    model.write_adapter(state)
    assert_same(model.read_adapter(), state)
    np.testing.assert_array_equal(any_one.velocity(model), any_one.velocity(any_one.adapted(state=state)))


def test_injection_twice_replaces_the_first_adapter(any_one):
    other = replace(any_one.spec, rank=2, targets=any_one.spec.targets[:1])
    model = any_one.adapted()
    model.inject_adapter(other, any_one.state(other))
    assert_same(model.read_adapter(), any_one.state(other))


def test_rslora_scales_by_the_root_of_the_rank(any_one):
    plain = replace(any_one.spec, rank=4, alpha=6.0)
    stabilised = replace(any_one.spec, rank=4, alpha=3.0, rslora=True)  # 3 / sqrt(4) = 6 / 4
    state = any_one.state(plain)
    found = any_one.velocity(any_one.adapted(stabilised, state))
    close(any_one, found, any_one.velocity(any_one.adapted(plain, state)))


def test_target_that_matches_nothing_raises_and_names_it(any_one):
    with pytest.raises(ConfigError, match="c_attn"):
        any_one.load().inject_adapter(replace(any_one.spec, targets=("q_proj", "c_attn")), {})


def test_write_adapter_names_all_problems_at_once_and_changes_nothing(any_one):
    model, state = any_one.adapted(), any_one.state(seed=5)
    missing, mis_shaped = sorted(state)[0], sorted(state)[1]
    del state[missing]
    state[mis_shaped] = state[mis_shaped].T
    state["layers.9.self_attn.q_proj.lora_A.weight"] = np.zeros((3, 64), np.float32)
    with pytest.raises(ConvertError) as caught:
        model.write_adapter(state)
    for name in (missing, mis_shaped, "layers.9"):
        assert name in str(caught.value)
    assert_same(model.read_adapter(), any_one.state())


def test_velocity_with_a_time_a_row_equals_row_by_row(any_toy):
    model, batch = any_toy.load(), any_toy.batch()
    conditioning = any_toy.conditioning(batch)
    together = model.velocity(batch["noise"], batch["time"], model.prepare(conditioning), 1.5)
    for row in range(2):
        alone = {key: value[row : row + 1] for key, value in conditioning.items()}
        found = model.velocity(batch["noise"][row : row + 1], float(batch["time"][row]), model.prepare(alone), 1.5)
        close(any_toy, found, together[row : row + 1], 1.5)


def test_both_velocities_are_those_of_guidance(any_toy):
    model, batch = any_toy.adapted(), any_toy.batch()
    prepared = model.prepare(any_toy.conditioning(batch))
    p, q = model.velocities(batch["noise"], batch["time"], prepared)
    assert p.shape == q.shape == batch["noise"].shape
    assert p.dtype == q.dtype == np.float32
    alone = model.velocity(batch["noise"], batch["time"], prepared, 0.0)
    close(any_toy, p[batch["valid"]], alone[batch["valid"]])
    guided = model.velocity(batch["noise"], batch["time"], prepared, 2.0)
    close(any_toy, p + 2 * (p - q), guided)
    assert np.abs(p - q).max() > 0.01
    with pytest.raises(DataError):
        model.velocities(batch["noise"][:, :-1], 0.5, prepared)
