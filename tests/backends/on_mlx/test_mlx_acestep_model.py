"""ACE-Step's model on MLX: quantised bases, half precision, GPU's forms of attention with padding."""

from __future__ import annotations

from dataclasses import replace

import acestep_flow_toys as toys
import mlx.core as mx
import numpy as np
import pytest
import tolerance
from acestep_toy import AceStepToy, write_toy

from musiclora.backends.base import OptimSpec
from musiclora.backends.mlx import acestep_model, device
from musiclora.backends.mlx.backend import BACKEND
from musiclora.backends.mlx.kernels import grouped_attention
from musiclora.convert.errors import BackendError
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating

# Rows of all matrices are multiples of 32, which MLX packs.
CONFIG = AceStepConfig(
    StackConfig(64, 96, 6, 2, 16),
    StackConfig(32, 64, 4, 2, 16),
    alternating(3),
    lyric_layers=1,
    timbre_layers=1,
    text_dim=8,
    latent_dim=4,
    sliding_window=4,
)
DROPOUT = replace(toys.SPEC, dropout=0.3)
DORA = replace(toys.SPEC, dora=True)


@pytest.fixture(scope="module", params=[8, 4])
def packed(request, tmp_path_factory):
    """A quantised toy, and one of the float weights that it stands for."""
    root = tmp_path_factory.mktemp("packed")
    toy = AceStepToy(BACKEND, write_toy(root / "packed", CONFIG, layout="mlx", bits=request.param), CONFIG)
    tensors = dict(toy.load().read_weights())
    return toy, toy.written(root / "float", tensors)


def near(found, expected, limit=1e-5):
    tolerance.assert_near(found, expected, limit * max(1.0, float(np.abs(expected).max())))


def test_quantised_matrices_stay_quantised(packed):
    toy, whole = packed
    model = toy.load()
    assert model.is_quantised
    assert not whole.load().is_quantised
    blocks = [
        {name: value for name, value in given.load().weights.items() if name.startswith("layers.")} for given in packed
    ]
    assert {value.dtype for name, value in blocks[0].items() if name.endswith("proj.weight")} == {mx.uint32}
    sizes = [sum(value.nbytes for value in given.values()) for given in blocks]
    assert sizes[0] < sizes[1] / 2
    assert all(value.dtype == np.float32 for _, value in model.read_weights())


@pytest.mark.parametrize("spec", [toys.SPEC, DORA], ids=["lora", "dora"])
def test_a_quantised_base_with_an_adapter_computes_what_its_float_form_does(packed, spec):
    state = packed[1].state(spec)
    models = [toy.adapted(spec, state) for toy in packed]
    batch = packed[0].batch()
    losses = [model.loss(batch).total for model in models]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    found = [packed[0].velocity(model) for model in models]
    near(found[0], found[1])
    # The adapter stays beside quantised weights, so that sampling needs no float copy of them.
    prepared = models[0].prepare(packed[0].conditioning(batch))
    assert prepared.weights is models[0].weights
    models[0].fuse()
    near(packed[0].velocity(models[0]), found[1])
    assert all(value.dtype == np.float32 for _, value in models[0].read_weights())


def test_a_quantised_base_trains_an_adapter_and_a_condition_as_its_float_form_does(packed):
    found = []
    for toy in packed:
        model = toy.adapted(DROPOUT, packed[1].state())
        model.set_style(toy.style())
        training = model.start_training(OptimSpec(seed=2, checkpointing=True, max_grad_norm=0.0))
        training.step([toy.bare()], 1e-4)
        found.append({k: v for k, v in training.read_state().items() if k.startswith("exp_avg.")})
    largest = max(np.abs(value).max() for value in found[1].values())
    for name, value in found[1].items():
        tolerance.assert_near(found[0][name], value, 1e-4 * largest, name)


def test_all_weights_of_a_quantised_base_are_not_trained(packed):
    with pytest.raises(BackendError, match="quantised; train the float base"):
        packed[0].load().start_training(OptimSpec(), "all")


def test_masks_of_dropout_cover_conditions_longer_than_the_latents(packed):
    toy = packed[0]
    batch = toys.flow_batch(CONFIG, rows=1, frames=5, condition=40)
    model = toy.adapted(DROPOUT, toy.state())
    model.set_style(np.ones((50, CONFIG.encoder.hidden), np.float32))
    bare = {key: value for key, value in batch.items() if not key.startswith("condition")}
    assert model.arrays(bare)["condition"].shape[1] == 50
    for given in (batch, bare):
        assert model.rows(given) >= model.arrays(given)["condition"].shape[1]
    for given in (batch, bare):
        assert np.isfinite(model.start_training(OptimSpec()).step([given], 1e-3).grad_norm)


@pytest.mark.parametrize("frames", [23, 80], ids=["square", "blocks"])
def test_padding_is_hidden_in_the_gpus_forms_of_attention(packed, monkeypatch, frames):
    toy = packed[1]
    batch = toy.batch(length=frames)
    model = toy.adapted()
    expected = model.loss(batch), model.velocity(batch["noise"], 0.3, model.prepare(toy.conditioning(batch)), 1.0)
    called = []
    blocks = grouped_attention._attend_in_window_blocks
    monkeypatch.setattr(device, "is_gpu", lambda: True)
    monkeypatch.setattr(
        grouped_attention, "_attend_in_window_blocks", lambda *given: called.append(1) or blocks(*given)
    )
    assert model.loss(batch).total == pytest.approx(expected[0].total, rel=1e-5)
    assert bool(called) == (frames == 80)
    prepared = model.prepare(toy.conditioning(batch))
    near(model.velocity(batch["noise"], 0.3, prepared, 1.0)[batch["valid"]], expected[1][batch["valid"]])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_float32_and_finite_with_padding_only(packed, dtype):
    toy = packed[1]
    batch = toys.uneven_batch(CONFIG, padding=np.nan)
    batch["condition_valid"][1] = False
    expected = toy.adapted().loss(batch).total
    model = acestep_model.MlxAceStep(toy.folder, getattr(mx, dtype))
    model.inject_adapter(toy.spec, toy.state())
    result = model.start_training(OptimSpec()).step([batch], 1e-3)
    assert result.loss == pytest.approx(expected, rel=0.02)  # 8 bits of mantissa through three blocks
    assert np.isfinite(result.grad_norm)
    prepared = model.prepare(toys.conditioning_of(batch))
    for velocity in model.velocities(np.nan_to_num(batch["noise"]), 0.5, prepared):
        assert np.isfinite(velocity).all()


def test_preparing_keeps_the_adapter_of_that_moment(packed):
    for toy in packed:
        model, batch = toy.adapted(), toy.batch()
        prepared = model.prepare(toy.conditioning(batch))
        before = model.velocity(batch["noise"], 0.5, prepared, 1.0)
        model.write_adapter(toy.state(seed=9))
        np.testing.assert_array_equal(model.velocity(batch["noise"], 0.5, prepared, 1.0), before)


def test_conditions_of_like_lengths_have_one_shape(packed):
    """Each shape of a compiled step is compiled by itself."""
    model = packed[1].load()
    found = [model.arrays(toys.flow_batch(CONFIG, condition=rows))["condition"].shape[1] for rows in (1, 30, 64, 65)]
    assert found == [64, 64, 64, 128]
    dropped = {**toys.flow_batch(CONFIG, condition=30), "drop_condition": np.array(True)}
    assert model.arrays(dropped)["condition"].shape[1] == 64
