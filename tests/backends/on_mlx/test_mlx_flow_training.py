"""MLX's own parts of training a flow model: gradients, checkpointing, dropout, the style vector, refusals."""

from __future__ import annotations

import flow_toys as toys
import mlx.core as mx
import numpy as np
import pytest
import tolerance
from audio_toys import assert_adapter_gradients_follow_the_weights, gradient_tolerance, loss_tolerance
from flow_toys import CONFIG

from musiclora.backends.base import OptimSpec
from musiclora.backends.mlx.objectives import FlowObjective
from musiclora.convert.errors import BackendError, DataError

STYLE = np.sin(np.arange(512, dtype=np.float32)) * np.float32(0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toys.write(tmp_path_factory.mktemp("flow") / "model")


def steps(model, count=2, given=None, **settings):
    training = model.start_training(OptimSpec(**settings))
    batches = [given or toys.without(toys.batch(i), "style") for i in range(count)]
    results = [training.step([batch], 1e-2) for batch in batches]
    style = {} if model.style is None else {"style": model.read_style()}
    return results, model.read_adapter() | style


def gradients(model, batch, everything):
    """Of the loss sum, in float32, uncompiled."""
    objective = FlowObjective(model, everything)
    grad = mx.grad(lambda t: objective.loss(t, objective.frozen(), objective.arrays(batch), None, False))
    return {key: np.array(value, np.float64) for key, value in grad(objective.trained()).items()}


def numeric(model, batch, name, direction, size=2e-3):
    """Central difference of the loss sum along a direction in one base weight."""
    kept, found = model.weights[name], []
    for sign in (1, -1):
        model.weights[name] = kept + sign * size * mx.array(direction)
        found.append(model.loss(batch).total)
    model.weights[name] = kept
    return (found[0] - found[1]) / (2 * size)


@pytest.mark.parametrize(
    "name",
    [
        "time_embed.time_mlp.0.weight",
        "start_time_embed.time_mlp.2.weight",
        "text_embed.text_embed.weight",
        "text_embed.text_blocks.0.dwconv.weight",
        "text_embed.text_blocks.0.grn.gamma",
        "input_embed.proj.weight",
        "input_embed.conv_pos_embed.conv1d.0.weight",
        "transformer_blocks.0.self_attn.k_proj.weight",
        "transformer_blocks.1.mlp.down_proj.weight",
        "transformer_blocks.2.post_attention_layernorm.weight",
        "text_fusion_linears.0.0.weight",
        "norm_out.linear.weight",
    ],
)
def test_gradients_of_base_weights_equal_differences_of_the_loss(folder, name):
    model, batch = toys.load(folder), toys.batch()
    grad = gradients(model, batch, True)[name]
    direction = (grad / np.linalg.norm(grad)).astype(np.float32)
    # float32 losses of some hundreds differ by multiples of 3e-5; divided by 4e-3 that is 0.01 of slopes above 1
    assert numeric(model, batch, name, direction) == pytest.approx(np.vdot(grad, direction), rel=2e-2, abs=5e-2)


def test_gradients_of_the_adapter_are_those_of_the_weights_it_adds_to(folder):
    model, batch = toys.adapted(folder), toys.batch()
    assert_adapter_gradients_follow_the_weights(model, lambda everything: gradients(model, batch, everything))


def test_checkpointing_changes_no_gradient(folder):
    runs = []
    for checkpointing in (False, True):
        model = toys.adapted(folder, dropout=0.2)
        model.set_style(STYLE)
        training = model.start_training(OptimSpec(checkpointing=checkpointing))
        result = training.step([toys.without(toys.batch(0), "style")], 1e-2)
        runs.append((result, {k: v for k, v in training.read_state().items() if k.startswith("exp_avg.")}))
    largest = max(float(np.abs(value).max()) for value in runs[0][1].values())
    relative = gradient_tolerance(CONFIG, 2 * 24, 24, 1.0)
    one, other = (run[0] for run in runs)
    assert (one.loss, one.grad_norm) == pytest.approx((other.loss, other.grad_norm), rel=relative)
    for key, value in runs[0][1].items():
        # A tenth of the gradient, which AdamW's first moment is after the only step.
        tolerance.assert_near(runs[1][1][key], value, relative * largest, key)


def test_dropout_is_applied_while_training_and_only_then(folder):
    given = toys.batch()
    expected = toys.adapted(folder).loss(given)
    assert toys.adapted(folder, dropout=0.5).loss(given) == expected

    def trained(dropout, seed):
        return steps(toys.adapted(folder, dropout=dropout), 1, given, seed=seed)[0][0].loss

    assert trained(0.0, 1) == pytest.approx(expected.total, rel=loss_tolerance(CONFIG, 24))
    assert trained(0.5, 1) == trained(0.5, 1)
    assert len({round(loss, 2) for loss in (expected.total, trained(0.5, 1), trained(0.5, 2))}) == 3


def test_the_style_vector_is_trained_with_the_adapter_and_kept_in_its_state(folder):
    model = toys.adapted(folder)
    model.set_style(STYLE)
    training = model.start_training(OptimSpec(weight_decay=0.0))
    state = training.read_state()
    assert state["exp_avg.style"].shape == state["exp_avg_sq.style"].shape == (512,)
    training.step([toys.without(toys.batch(), "style")], 1e-2)
    # the first step of AdamW moves a value by the learning rate, less where the gradient is no larger than eps
    moved = np.abs(model.read_style() - STYLE)
    assert moved.min() > 0
    np.testing.assert_allclose(np.quantile(moved, (0.1, 1.0)), 1e-2, rtol=1e-2)


@pytest.mark.parametrize("given", [{"style": np.ones((2, 512), np.float32)}, {"drop_style": True}], ids=["own", "drop"])
def test_a_style_that_has_no_part_in_a_batch_stays(folder, given):
    model = toys.adapted(folder)
    model.set_style(STYLE)
    training = model.start_training(OptimSpec(weight_decay=0.0))
    assert training.step([{**toys.without(toys.batch(), "style"), **given}], 1e-2).loss > 0
    np.testing.assert_array_equal(model.read_style(), STYLE)


def test_a_resumed_training_goes_on_exactly(folder):
    def start():
        model = toys.adapted(folder, dropout=0.3)
        model.set_style(STYLE)
        return model, model.start_training(OptimSpec(seed=4))

    batches = [toys.without(toys.batch(i), "style") for i in range(4)]
    model, training = start()
    for given in batches[:2]:
        training.step([given], 1e-2)
    kept = training.read_state(), model.read_adapter(), model.read_style()
    expected = [training.step([given], 1e-2) for given in batches[2:]]
    other, resumed = start()
    other.write_adapter(kept[1])
    other.set_style(kept[2])
    resumed.write_state(kept[0])
    assert [resumed.step([given], 1e-2) for given in batches[2:]] == expected
    np.testing.assert_array_equal(other.read_style(), model.read_style())
    for key, value in model.read_adapter().items():
        np.testing.assert_array_equal(other.read_adapter()[key], value, err_msg=key)


def test_fusing_changes_nothing_but_rounding(folder):
    model, given = toys.adapted(folder), toys.batch()
    base, before = toys.load(folder).loss(given).total, model.loss(given).total
    model.fuse()
    assert model.loss(given).total == pytest.approx(before, rel=loss_tolerance(CONFIG, 24))
    assert abs(before - base) > 1e-3 * base
    with pytest.raises(BackendError, match="no adapter"):
        model.read_adapter()


def test_a_step_of_all_weights_moves_all_of_them_and_lowers_the_loss(folder):
    model, given = toys.load(folder), toys.batch()
    before, first = dict(model.read_weights()), model.loss(given).mean
    training = model.start_training(OptimSpec(), "all")
    for _ in range(3):
        training.step([given], 1e-3)
    assert model.loss(given).mean < first
    still = [name for name, value in model.read_weights() if np.array_equal(value, before[name])]
    assert not still


def test_a_half_precision_base_trains_a_float32_adapter(folder):
    model, given = toys.adapted(folder, dtype="bfloat16"), toys.batch()
    training = model.start_training(OptimSpec(checkpointing=True))
    losses = [training.step([given], 1e-2).loss for _ in range(6)]
    assert losses[-1] < losses[0]
    assert all(value.dtype == np.float32 for value in model.read_adapter().values())


def test_training_refuses_what_it_cannot_do(folder):
    with pytest.raises(BackendError, match="inject_adapter"):
        toys.load(folder).start_training(OptimSpec())
    with pytest.raises(BackendError, match="fuse it"):
        toys.adapted(folder).start_training(OptimSpec(), "all")
    with pytest.raises(BackendError, match="float32"):
        toys.load(folder, "bfloat16").start_training(OptimSpec(), "all")
    model = toys.adapted(folder)
    training = model.start_training(OptimSpec())
    model.set_style(STYLE)
    with pytest.raises(BackendError, match="start_training"):
        training.step([toys.batch()], 1e-3)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"noise": np.zeros((2, 3, 6), np.float32)}, r"noise has shape \[2, 3, 6\]"),
        ({"time": np.float32([0.5, 1.5])}, "time goes from 0.5 to 1.5"),
        ({"text": np.full((2, 24), 21, np.int32)}, "text goes from 21 to 21; allowed are 0 to 20"),
        ({"style": np.zeros((2, 5), np.float32)}, r"expected \[2, 512\]"),
    ],
    ids=["shape", "time", "text", "style"],
)
def test_a_batch_that_does_not_fit_is_refused(folder, change, what):
    with pytest.raises(DataError, match=what):
        toys.load(folder).loss({**toys.batch(), **change})


def test_rows_that_are_too_long_and_missing_arrays_are_named_together(folder):
    given = toys.without(toys.batch(length=CONFIG.max_frames + 1), "start_time")
    with pytest.raises(DataError, match=r"start_time is missing.*41 frames; this model takes at most 40"):
        toys.load(folder).loss(given)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_a_compiled_step_equals_an_uncompiled_one(folder):
    def run():
        model = toys.adapted(folder, dropout=0.1)
        model.set_style(STYLE)
        return steps(model, checkpointing=True)

    compiled = run()
    mx.disable_compile()
    plain = run()
    relative = loss_tolerance(CONFIG, 24)
    assert [r.loss for r in compiled[0]] == pytest.approx([r.loss for r in plain[0]], rel=relative)
    for key, value in plain[1].items():
        # two AdamW steps of 1e-2; signs of tiny gradients may differ, so a few values may move apart by a step
        assert np.quantile(np.abs(compiled[1][key] - value), 0.99) < 1e-4, key
