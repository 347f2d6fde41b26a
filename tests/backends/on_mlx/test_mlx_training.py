"""MLX's own parts of training: AdamW, dropout masks, checkpointing and the compiled step."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import tolerance
from toys import assert_close, gradient_tolerance, step_gradient

from musiclora.backends import lora_init
from musiclora.backends.base import FAMILIES, OptimSpec
from musiclora.backends.mlx.backend import BACKEND
from musiclora.backends.mlx.lora import DropoutPool, adapted, fused_weight
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.errors import BackendError
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint

CONFIG = Gpt2Config(vocab_size=31, n_positions=24, n_embd=12, n_layer=2, n_head=3, n_inner=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "model"
    tensors = {k: v * 5 if v.ndim > 1 else v for k, v in fresh_tensors(CONFIG, 3).items()}
    write_checkpoint(path, CONFIG, tensors, "hf")
    return path


def adapted_model(folder, dropout=0.0, dtype="float32"):
    model = BACKEND.load(FAMILIES["symbolic"], folder, dtype=dtype)
    spec = LoraSpec(3, 6.0, dropout, ("c_attn", "c_proj", "c_fc"))
    state = lora_init.initial(spec, model.linear_shapes(), 5)
    rng = np.random.default_rng(8)
    filled = {k: v + rng.normal(0, 0.05, v.shape).astype(np.float32) for k, v in state.items()}
    model.inject_adapter(spec, filled)
    return model


def batch(seed=0, rows=2, length=24):
    rng = np.random.default_rng(seed)
    mask = np.ones((rows, length), bool)
    mask[:, 0] = mask[1, 15:] = False
    return {"tokens": rng.integers(0, CONFIG.vocab_size, (rows, length)).astype(np.int32), "loss_mask": mask}


def states_after(training, model, steps):
    results = [training.step([batch(i), batch(i + 50)], 1e-2) for i in range(steps)]
    return results, {k: v.copy() for k, v in model.read_adapter().items()}


@pytest.mark.parametrize(("in_size", "out_size"), [(5, 7), (6, 6)], ids=["rectangular", "square"])
def test_adapted_layer_equals_its_fused_form(in_size, out_size):
    rng = np.random.default_rng(0)
    sizes = ((9, in_size), (in_size, out_size), (2, in_size), (out_size, 2))
    x, w, a, b = (mx.array(rng.normal(size=size).astype(np.float32)) for size in sizes)
    found = adapted(x, x @ w, a, b, 1.5, None)
    # Sums over the inputs and over the rank, of values in a row of three products.
    plain_x, plain_w, plain_a, plain_b = (np.abs(np.array(array)) for array in (x, w, a, b))
    size = (plain_x @ plain_w).max() + 1.5 * (plain_x @ plain_a.T @ plain_b.T).max()
    tolerance.assert_near(found, x @ fused_weight(w, a, b, 1.5), tolerance.rounding(in_size + 2 + 2, size))


def test_a_step_is_adamw_with_bias_correction_after_clipping(folder):
    """Two steps of the published algorithm in numpy, fed with the gradients that MLX reports."""
    optim = OptimSpec(weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6, max_grad_norm=0.01)
    model = adapted_model(folder)
    training = model.start_training(optim)
    value = model.read_adapter()
    first = {k: np.zeros_like(v, np.float64) for k, v in value.items()}
    second = {k: np.zeros_like(v, np.float64) for k, v in value.items()}
    for step in (1, 2):
        _, sums = training._accumulate_gradients([batch(step)])
        grads = {k: np.array(v, np.float64) / batch(step)["loss_mask"].sum() for k, v in sums.items()}
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        result = training.step([batch(step)], 0.02)
        # The same gradients; the norm sums their squares in float32.
        count = sum(g.size for g in grads.values())
        assert result.grad_norm == pytest.approx(norm, rel=tolerance.rounding(count))
        assert norm > 0.01  # so that clipping is at work
        for key, grad in grads.items():
            grad *= 0.01 / norm
            first[key] = 0.8 * first[key] + 0.2 * grad
            second[key] = 0.95 * second[key] + 0.05 * grad**2
            step_size = first[key] / (1 - 0.8**step) / (np.sqrt(second[key] / (1 - 0.95**step)) + 1e-6)
            value[key] = value[key] * (1 - 0.02 * 0.1) - 0.02 * step_size
    for key, found in model.read_adapter().items():
        # A step of 0.02 in float32, from moments that are rounded some ten times, twice; and a value that is, twice.
        limit = 2 * tolerance.rounding(10, 0.02 * 3) + tolerance.rounding(4, value[key])
        tolerance.assert_near(found, value[key], limit + 2 * 0.02 * tolerance.rounding(count), key)


def test_checkpointing_changes_no_gradient(folder):
    losses, gradients = [], []
    for checkpointing in (False, True):
        model = adapted_model(folder, dropout=0.2)
        before = model.read_adapter()
        # eps = 1: a step that shows the gradient, where AdamW's would enlarge the noise of one that is nearly zero.
        optim = OptimSpec(checkpointing=checkpointing, weight_decay=0.0, eps=1.0, max_grad_norm=0.0)
        losses.append(model.start_training(optim).step([batch(0), batch(50)], 1.0).loss)
        gradients.append(step_gradient(before, model.read_adapter()))
    assert losses[0] == pytest.approx(losses[1], rel=tolerance.LOGITS)
    assert_close(gradients[0], gradients[1], gradient_tolerance(CONFIG, 2 * 2 * 24, 24, before, *gradients))


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_compiled_training_and_generation_equal_uncompiled_ones(folder):
    def both():
        model = adapted_model(folder, dropout=0.1)
        results, state = states_after(model.start_training(OptimSpec()), model, 3)
        return [r.loss for r in results], state

    compiled = both()
    mx.disable_compile()
    plain = both()
    assert compiled[0] == pytest.approx(plain[0], rel=2 * tolerance.LOGITS)
    for key in plain[1]:
        # Three AdamW steps of 1e-2. The sign of a gradient that is nearly zero may differ, and with it a whole step.
        apart = np.abs(compiled[1][key] - plain[1][key])
        assert np.quantile(apart, 0.98) < 1e-4, key
        assert apart.max() <= 2 * 3 * 1e-2


def test_dropout_masks_depend_on_seed_step_and_module_only(folder):
    def run(seed, start=0):
        model = adapted_model(folder, dropout=0.5)
        training = model.start_training(OptimSpec(seed=seed))
        state = dict(training.read_state())
        training.write_state({**state, "step": np.array(start)})
        return training.step([batch()], 1e-3).loss

    mx.random.seed(1)
    first = run(4)
    mx.random.seed(2)  # the global state has no part in it
    assert run(4) == first
    assert run(5) != first
    assert run(4, start=1) != first


def test_dropout_pool_has_the_asked_share_of_zeros_and_mean_one():
    values = np.array(DropoutPool.draw(3, 0.25, 1000).values)
    assert set(np.unique(values)) == {np.float32(0), np.float32(1 / 0.75)}
    # a million draws: three standard deviations of the mean are 0.0017
    assert values.mean() == pytest.approx(1, abs=0.002)
    offsets = np.array(DropoutPool.offsets([f"h.{i}" for i in range(50)], 0, 0))
    assert len(set(offsets.tolist())) == 50


def test_training_all_weights_refuses_an_adapter_and_half_precision(folder):
    with pytest.raises(BackendError, match="fuse it"):
        adapted_model(folder).start_training(OptimSpec(), "all")
    half = BACKEND.load(FAMILIES["symbolic"], folder, dtype="bfloat16")
    with pytest.raises(BackendError, match="float32"):
        half.start_training(OptimSpec(), "all")


def test_step_after_the_adapter_was_replaced_raises(folder):
    model = adapted_model(folder)
    training = model.start_training(OptimSpec())
    model.fuse()
    with pytest.raises(BackendError, match="start_training"):
        training.step([batch()], 1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_base_stays_near_float32_and_trains_a_float32_adapter(folder, dtype):
    whole, half = adapted_model(folder), adapted_model(folder, dtype=dtype)
    # bfloat16 keeps 8 bits: relative errors near 1e-2 in logits of about 1
    assert half.loss(batch()).mean == pytest.approx(whole.loss(batch()).mean, rel=2e-2)
    training = half.start_training(OptimSpec())
    before = training.step([batch()], 1e-2).loss
    for _ in range(5):
        after = training.step([batch()], 1e-2).loss
    assert after < before
    assert all(v.dtype == np.float32 for v in half.read_adapter().values())
