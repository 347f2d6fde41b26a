"""ACE-Step's transformer on torch against diffusers': velocities, guidance, padding, half precision, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import tolerance
from acestep_flow_toys import (
    CONFIGS,
    PARITY,
    SPEC,
    adapter_state,
    conditioning_of,
    flow_batch,
    random_tensors,
    row_alone,
    uneven_batch,
)
from require import require

torch = require("torch")
require("diffusers")

import acestep_diffusers as reference  # noqa: E402

from musiclora.backends.torch.acestep import TorchAceStep  # noqa: E402
from musiclora.convert.errors import ConvertError, DataError  # noqa: E402


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def config(request):
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def tensors(config):
    return random_tensors(reference.tensor_shapes(config))


def near(found, expected, limit=PARITY):
    """Relative to the largest value."""
    tolerance.assert_near(found, expected, limit * max(1.0, float(np.abs(expected).max())))


def guided(model, batch, time, guidance):
    return model.velocity(batch["noise"], time, model.prepare(conditioning_of(batch)), guidance)


def test_the_velocity_is_minus_the_output_of_diffusers(config, tensors):
    model, batch = TorchAceStep(config, tensors), flow_batch(config)
    expected = reference.velocity(reference.transformer(config, tensors), batch, batch["noise"], batch["time"])
    near(guided(model, batch, batch["time"], 0.0), expected)
    near(guided(model, batch, batch["time"], 1e-6), expected)
    assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize("time", [0.3, np.array([0.1, 0.8], np.float32)], ids=["one time", "a time for each row"])
def test_guidance_replaces_the_whole_condition_by_the_null_condition(config, tensors, time):
    model, batch, plain = TorchAceStep(config, tensors), flow_batch(config), reference.transformer(config, tensors)
    times = np.broadcast_to(np.float32(time), 2)
    given = (batch, reference.with_null(batch, tensors))
    p, q = (reference.velocity(plain, b, batch["noise"], times) for b in given)
    near(guided(model, batch, time, 3.0), p + 3 * (p - q), 7 * PARITY)  # the difference of two passes, three times
    assert np.abs(p - q).max() > 0.1


def test_the_loss_is_that_of_diffusers_and_a_dropped_condition_is_null(config, tensors):
    model, batch, plain = TorchAceStep(config, tensors), flow_batch(config), reference.transformer(config, tensors)
    with torch.no_grad():
        expected = float(reference.loss(plain, batch))
        dropped = float(reference.loss(plain, reference.with_null(batch, tensors)))
    found = model.loss(batch)
    assert found.weight == batch["latents"].size
    assert found.total == pytest.approx(expected, rel=PARITY)
    assert model.loss({**batch, "drop_condition": np.array(True)}).total == pytest.approx(dropped, rel=PARITY)
    half = {**batch, "drop_condition": np.array([True, False])}
    rows = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(2)]
    rows[0]["drop_condition"] = np.array(True)
    alone = sum(model.loss(row).total for row in rows)
    assert model.loss(half).total == pytest.approx(alone, rel=1e-5)
    assert abs(expected - dropped) > 10 * PARITY * expected


def test_a_row_of_an_uneven_batch_equals_the_row_alone(config, tensors):
    """Padding of frames and of conditions reaches no result, whatever it holds."""
    model, batch = TorchAceStep(config, tensors), uneven_batch(config, padding=np.nan)
    found = guided(model, batch, batch["time"], 1.5)
    total = 0.0
    for index in range(3):
        alone = row_alone(batch, index)
        expected = guided(model, alone, alone["time"], 1.5)
        near(found[index, batch["valid"][index]], expected[0], 1e-5)  # products of other sizes add in another order
        total += model.loss(alone).total
    assert model.loss(batch).total == pytest.approx(total, rel=1e-5)
    assert np.isfinite(found).all()


def test_an_empty_condition_adds_nothing_to_the_others(config, tensors):
    """Its rows are zeros for the cross attention of every query, so that only the output's bias is left."""
    model, batch = TorchAceStep(config, tensors), flow_batch(config)
    batch["condition_valid"][1] = False
    batch["condition"][1] = np.nan
    found = guided(model, batch, 0.4, 0.0)
    plain = reference.transformer(config, tensors)
    for block in plain.layers:
        block.cross_attn.to_v.weight.data.zero_()
        if config.attention_bias:
            block.cross_attn.to_v.bias.data.zero_()
    filled = {**batch, "condition": np.nan_to_num(batch["condition"])}
    expected = reference.velocity(plain, filled, batch["noise"], np.float32([0.4, 0.4]))
    near(found[1], expected[1])
    near(found[0], guided(model, row_alone(batch, 0), 0.4, 0.0)[0], 1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_finite_with_padding_only_and_near_float32(config, tensors, dtype):
    model = TorchAceStep(config, tensors, getattr(torch, dtype))
    batch = uneven_batch(config, padding=np.nan)
    batch["condition_valid"][1] = False
    found = guided(model, batch, 0.5, 1.0)
    expected = guided(TorchAceStep(config, tensors), batch, 0.5, 1.0)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.abs(found - expected).mean() < 0.1 * np.abs(expected).mean()  # 8 bits through three blocks
    model.inject_adapter(SPEC, adapter_state(model))
    for value in model.adapter_parameters().values():
        value.requires_grad_(True)
    model.loss_sum(batch).backward()
    for name, value in model.adapter_parameters().items():
        assert torch.isfinite(value.grad).all(), name
        assert value.grad.dtype == torch.float32


def test_a_long_row_is_computed_in_blocks_of_the_band():
    """Several blocks of queries, where the others have one."""
    config = CONFIGS["rectangular"]
    tensors = random_tensors(reference.tensor_shapes(config))
    model, batch = TorchAceStep(config, tensors), flow_batch(config, rows=1, frames=601)
    prepared = model.prepare(conditioning_of(batch))
    assert [len(blocks) for blocks in prepared.frame.blocks] == [3, 1, 3]
    expected = reference.velocity(reference.transformer(config, tensors), batch, batch["noise"], batch["time"])
    near(model.velocity(batch["noise"], batch["time"], prepared, 0.0), expected)


def test_read_weights_gives_back_the_checkpoint(config, tensors):
    others = {"encoder.norm.weight": np.ones(3), "silence_latent": np.zeros((4, 2)), "tokenizer.x": np.ones(1)}
    found = dict(TorchAceStep(config, iter({**others, **tensors}.items())).read_weights())
    assert sorted(found) == sorted(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_tensors_that_do_not_fit_are_all_named(config, tensors):
    wrong = {**tensors, "decoder.more": np.ones(2, np.float32), "decoder.norm_out.weight": np.ones(3, np.float32)}
    del wrong["null_condition_emb"], wrong["decoder.layers.0.self_attn.q_proj.weight"]
    with pytest.raises(ConvertError) as caught:
        TorchAceStep(config, wrong)
    for part in ("decoder.more is surplus", "norm_out.weight has shape", "null_condition_emb", "q_proj.weight"):
        assert part in str(caught.value)


def test_batches_that_do_not_fit_are_refused_with_all_problems(config, tensors):
    model, batch = TorchAceStep(config, tensors), flow_batch(config)
    del batch["context"]
    batch["condition_valid"] = batch["condition_valid"][:, 1:]
    batch["time"] = batch["time"] + 2
    with pytest.raises(DataError) as caught:
        model.loss(batch)
    for part in ("context is missing", "condition_valid has shape [2, 6], expected [2, 7]", "time goes from"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="needs context"):
        model.prepare(conditioning_of(batch))
