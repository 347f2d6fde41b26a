"""Properties of loading, adapters and weights, once for every backend."""

from __future__ import annotations

import numpy as np
import pytest
import tolerance
from toys import SPEC, assert_same, formula_tensors

from musiclora.backends import lora_init
from musiclora.backends.base import OptimSpec
from musiclora.convert.adapters.lora import LoraSpec, state_keys
from musiclora.convert.errors import ConfigError, ConvertError, MusicLoraError


def test_load_gives_the_checkpoints_values_under_canonical_names(toy):
    assert_same(dict(toy.load().read_weights()), formula_tensors(toy.config))


def test_load_from_the_mlx_layout_equals_the_hf_layout(toy, tmp_path):
    from musiclora.backends.base import FAMILIES
    from musiclora.convert.models.gpt2 import write_checkpoint

    write_checkpoint(tmp_path / "other", toy.config, formula_tensors(toy.config), "mlx")
    other = toy.backend.load(FAMILIES["symbolic"], tmp_path / "other")
    # The same values in another memory layout: a BLAS may sum them in another order.
    expected = toy.load().logits(toy.batch())
    tolerance.assert_near(other.logits(toy.batch()), expected, tolerance.logits(expected))


def test_load_of_a_folder_without_model_raises(backend, tmp_path):
    from musiclora.backends.base import FAMILIES

    with pytest.raises(MusicLoraError, match=r"config\.json"):
        backend.load(FAMILIES["symbolic"], tmp_path)


def test_linear_shapes_are_those_of_the_configuration(toy):
    assert toy.load().linear_shapes() == toy.config.linear_shapes()


def test_injection_with_zero_b_changes_nothing(toy):
    model, batch = toy.load(), toy.batch()
    before = model.logits(batch)
    model.inject_adapter(SPEC, lora_init.initial(SPEC, model.linear_shapes(), 3))
    tolerance.assert_near(model.logits(batch), before, tolerance.logits(before))  # products of another form


def test_injection_changes_the_logits_as_the_sum_of_weights_says(toy):
    """The reference is the same backend with weights that numpy summed."""
    from musiclora.backends.base import FAMILIES
    from musiclora.convert.models.gpt2 import write_checkpoint

    state, tensors, batch = toy.state(), formula_tensors(toy.config), toy.batch()
    for name in toy.config.linear_shapes():
        key_a, key_b = state_keys(name)
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"] + SPEC.scale * (state[key_b] @ state[key_a]).T
    folder = toy.folder.parent / f"summed-{toy.backend.name}-{toy.folder.name}"
    write_checkpoint(folder, toy.config, tensors, "hf")
    expected = toy.backend.load(FAMILIES["symbolic"], folder).logits(batch)
    found = toy.adapted().logits(batch)
    assert np.abs(found - toy.load().logits(batch)).max() > 0.1  # the adapter does something
    tolerance.assert_near(found, expected, tolerance.logits(expected))


def test_rslora_scales_by_the_root_of_the_rank(square):
    plain = LoraSpec(4, 6.0, 0.0, SPEC.targets)
    stabilised = LoraSpec(4, 3.0, 0.0, SPEC.targets, rslora=True)  # 3 / sqrt(4) = 6 / 4
    state = square.state(plain)
    batch = square.batch()
    found, expected = square.adapted(stabilised, state).logits(batch), square.adapted(plain, state).logits(batch)
    tolerance.assert_near(found, expected, tolerance.logits(expected))


def test_injection_twice_replaces_the_first_adapter(toy):
    other = LoraSpec(2, 4.0, 0.0, ("mlp.c_proj",))
    model = toy.adapted()
    model.inject_adapter(other, toy.state(other))
    assert_same(model.read_adapter(), toy.state(other))
    np.testing.assert_array_equal(model.logits(toy.batch()), toy.adapted(other).logits(toy.batch()))


def test_injection_into_one_module_touches_that_module_only(toy):
    spec = LoraSpec(2, 4.0, 0.0, ("transformer.h.1.attn.c_proj",))
    keys = state_keys("transformer.h.1.attn.c_proj")
    assert sorted(toy.adapted(spec).read_adapter()) == sorted(keys)


def test_target_that_matches_nothing_raises_and_names_it(square):
    spec = LoraSpec(2, 4.0, 0.0, ("c_attn", "q_proj"))
    with pytest.raises(ConfigError, match="q_proj"):
        square.load().inject_adapter(spec, {})


def test_disabled_adapter_is_the_base_bit_for_bit(toy):
    model, batch = toy.adapted(), toy.batch()
    base, on = toy.load().logits(batch), model.logits(batch)
    model.set_adapter(False)
    np.testing.assert_array_equal(model.logits(batch), base)
    model.set_adapter(True)
    np.testing.assert_array_equal(model.logits(batch), on)


def test_fuse_equals_the_adapter_and_drops_it(toy):
    model, batch = toy.adapted(), toy.batch()
    before = model.logits(batch)
    model.fuse()
    tolerance.assert_near(model.logits(batch), before, tolerance.logits(before))
    with pytest.raises(MusicLoraError, match="adapter"):
        model.read_adapter()


def test_fuse_sums_weights_in_float32(toy):
    model, state, base = toy.adapted(), toy.state(), formula_tensors(toy.config)
    model.fuse()
    fused = dict(model.read_weights())
    for name in toy.config.linear_shapes():
        key_a, key_b = state_keys(name)
        expected = base[f"{name}.weight"] + np.float32(SPEC.scale) * (state[key_b] @ state[key_a]).T
        # A sum of rank products, the scale and the base's weight.
        size = np.abs(expected).max() + SPEC.scale * tolerance.absolute_product(state[key_b], state[key_a])
        tolerance.assert_near(fused[f"{name}.weight"], expected, tolerance.rounding(SPEC.rank + 2, size), name)
        np.testing.assert_array_equal(fused[f"{name}.bias"], base[f"{name}.bias"])


def test_adapter_read_write_read_is_exact(toy):
    model, state = toy.adapted(), toy.state(seed=5)
    model.write_adapter(state)
    assert_same(model.read_adapter(), state)
    np.testing.assert_array_equal(model.logits(toy.batch()), toy.adapted(state=state).logits(toy.batch()))


def test_read_adapter_gives_float32_copies(square):
    model = square.adapted()
    found = model.read_adapter()
    for value in found.values():
        assert value.dtype == np.float32
        value[:] = 0
    assert_same(model.read_adapter(), square.state())


def test_write_adapter_names_all_problems_at_once_and_changes_nothing(square):
    model, state = square.adapted(), square.state(seed=5)
    missing, mis_shaped = sorted(state)[0], sorted(state)[1]
    del state[missing]
    state[mis_shaped] = state[mis_shaped].T
    state["transformer.h.9.attn.c_attn.lora_A.weight"] = np.zeros((3, 16), np.float32)
    with pytest.raises(ConvertError) as caught:
        model.write_adapter(state)
    for name in (missing, mis_shaped, "transformer.h.9"):
        assert name in str(caught.value)
    assert_same(model.read_adapter(), square.state())


@pytest.mark.parametrize("call", ["read_adapter", "fuse", "start_training"], ids=str)
def test_without_adapter_the_adapters_methods_raise(square, call):
    arguments = (OptimSpec(),) if call == "start_training" else ()
    with pytest.raises(MusicLoraError, match="adapter"):
        getattr(square.load(), call)(*arguments)
