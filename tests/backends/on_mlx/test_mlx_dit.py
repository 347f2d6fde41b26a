"""MLX's own parts of the diffusion transformer: norms, layouts, blocks of attention, split inputs."""

from __future__ import annotations

import gc
import weakref

import flow_toys as toys
import mlx.core as mx
import numpy as np
import pytest
import tolerance
from audio_toys import loss_tolerance, velocity_tolerance
from flow_toys import CONFIG

from musiclora.backends.base import OptimSpec
from musiclora.backends.mlx import device, dit, dit_attention, lora
from musiclora.backends.mlx.decoder import ActiveAdapter, Dropout
from musiclora.backends.mlx.kernels import ops
from musiclora.backends.mlx.lora import DropoutPool
from musiclora.convert.adapters.lora import state_keys
from musiclora.convert.models.diffrhythm import DiffRhythmConfig

LONG = DiffRhythmConfig(64, 2, 1, conv_layers=2, mel_dim=5, max_frames=6144, duration_embedding=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toys.write(tmp_path_factory.mktemp("dit") / "model")


def conditioning(seed=0):
    return toys.without(toys.batch(seed), "latents", "noise", "time")


def test_every_norm_has_the_originals_eps(folder, monkeypatch):
    """Fixtures do not tell 1e-5 from 1e-6: both are within their tolerance."""
    seen = []
    for name in ("rms_norm", "layer_norm"):
        real = getattr(mx.fast, name)
        monkeypatch.setattr(mx.fast, name, lambda *args, real=real: seen.append(args[-1]) or real(*args))
    toys.load(folder).loss(toys.batch())
    assert seen == [1e-6] * (2 * CONFIG.depth + CONFIG.conv_layers + 1)


def test_response_norm_is_over_time_with_the_originals_eps():
    y = np.random.default_rng(1).standard_normal((2, 9, 4)).astype(np.float32) * np.float32(1e-6)
    gamma, beta = np.float32([[[1, 2, 3, 4]]]), np.float32([[[0.5, 0, 0, 0]]])
    weights = {"at.gamma": mx.array(gamma), "at.beta": mx.array(beta)}
    size = np.sqrt((y.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    expected = gamma * y * size / (size.mean(axis=-1, keepdims=True) + 1e-6) + beta + y
    # A sum over time, a mean over channels, six operations on each value.
    found = np.array(dit._response_norm(mx.array(y), "at", weights))
    np.testing.assert_allclose(found, expected, rtol=tolerance.rounding(9 + 4 + 6))


def test_a_channel_that_is_silent_throughout_has_a_gradient():
    weights = {"at.gamma": mx.ones((1, 1, 2)), "at.beta": mx.zeros((1, 1, 2))}
    y = mx.array(np.float32([[[0, 1], [0, 2]]]))
    grad = mx.grad(lambda y: dit._response_norm(y, "at", weights).sum())(y)
    assert np.isfinite(np.array(grad)).all()


def test_mish_and_its_slope_equal_the_definition():
    x = np.concatenate([np.linspace(-30, 30, 601), [-200, 150]]).astype(np.float32)
    value, slope = (np.array(part) for part in ops._mish(mx.array(x)))
    wide = x.astype(np.float64)
    t = np.tanh(np.logaddexp(0, wide))
    # rounding of e^x and of the quotient, relative to numbers up to 150
    np.testing.assert_allclose(value, wide * t, rtol=2e-6, atol=1e-6)
    sigmoid = np.where(wide < 0, np.exp(np.minimum(wide, 0)), 1) / (1 + np.exp(-np.abs(wide)))
    np.testing.assert_allclose(slope, t + wide * (1 - t * t) * sigmoid, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, LONG], ids=["short", "long"])
@pytest.mark.parametrize("layout", ["hf", "mlx"])
def test_read_weights_gives_back_what_the_checkpoint_holds(tmp_path, config, layout):
    model = toys.load(toys.write(tmp_path / "model", config, layout))
    expected = dict(toys.tensors(config))
    found = dict(model.read_weights())
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert model.has_duration == config.duration_embedding
    assert (model.latent_channels, model.max_frames) == (config.mel_dim, config.max_frames)


def plain_attention(q, k, v, causal):
    scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        scores = mx.where(mx.tri(q.shape[2], q.shape[2], dtype=mx.bool_), scores, -mx.inf)
    return mx.softmax(scores, axis=-1) @ v


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("length", [5, 8, 21])
def test_attention_and_its_gradients_equal_the_definition(monkeypatch, causal, gpu, length):
    monkeypatch.setattr(dit_attention, "BLOCK_FRAMES", 8)
    monkeypatch.setattr(device, "is_gpu", lambda: gpu)
    rng = np.random.default_rng(length)
    q, k, v, g = (mx.array(rng.standard_normal((2, 3, length, 4)).astype(np.float32)) for _ in range(4))

    def run(attend):
        value, grads = mx.value_and_grad(lambda *a: (attend(*a, causal) * g).sum(), argnums=(0, 1, 2))(q, k, v)
        return [np.array(part) for part in (attend(q, k, v, causal), value, *grads)]

    for found, expected in zip(run(dit_attention.attend_frames), run(plain_attention), strict=True):
        # Scores of 4 products, a softmax and values over the row; back the same way; the first value sums over all.
        terms = 2 * (4 + 2 * length) + (g.size if np.ndim(expected) == 0 else 0)
        size = float(mx.abs(g).sum().item()) if np.ndim(expected) == 0 else max(1.0, np.abs(expected).max())
        tolerance.assert_near(found, expected, tolerance.rounding(terms, size))


def test_the_split_input_layer_with_dropout_equals_the_whole_one():
    """Parts of its inputs take their stretches of one mask, so that no element of it is used twice."""
    rng = np.random.default_rng(0)
    rows, sizes, rank = 7, (3, 4, 5), 2
    total = sum(sizes)
    x = rng.standard_normal((rows, total)).astype(np.float32)
    arrays = {"p.weight": (6, total), state_keys("p")[0]: (rank, total), state_keys("p")[1]: (6, rank)}
    weights = {k: mx.array(rng.standard_normal(s).astype(np.float32)) for k, s in arrays.items()}
    pool = DropoutPool.draw(3, 0.5, rows * total)
    adapter = ActiveAdapter(weights, 1.5, Dropout(pool, ("p",), mx.array([11], mx.int32)))
    found, masks, start = mx.zeros((rows, 6)), [], 0
    for size in sizes:
        part = mx.array(x[:, start : start + size])
        found = found + dit.linear_part(part, "p", weights, adapter, start)
        masks.append(np.array(pool.mask(mx.array(11 + rows * start), (rows, size))))
        start += size
    mask = np.concatenate(masks, axis=1)
    flat = np.concatenate([part.reshape(-1) for part in masks])
    np.testing.assert_array_equal(flat, np.array(pool.values)[11 : 11 + rows * total])
    a, b = weights[state_keys("p")[0]], weights[state_keys("p")[1]]
    expected = lora.adapted(mx.array(x), mx.array(x) @ weights["p.weight"].T, a, b, 1.5, mx.array(mask))
    # Twelve inputs and two ranks; the mask doubles what it keeps.
    size = np.abs(x) @ np.abs(np.array(weights["p.weight"])).T
    size = size.max() + 1.5 * 2 * (np.abs(x) @ np.abs(np.array(a)).T @ np.abs(np.array(b)).T).max()
    tolerance.assert_near(found, expected, tolerance.rounding(total + rank + 4, size))


def test_velocity_joins_both_passes_of_guidance_into_one(folder):
    model, given = toys.adapted(folder), conditioning()
    given["negative_style"] = np.random.default_rng(3).standard_normal((2, 512)).astype(np.float32)
    x, time = toys.batch()["noise"], np.float32([0.2, 0.7])
    prepared = model.prepare(given)
    nothing = {**given, "style": given["negative_style"], "drop_audio": True, "drop_text": True}
    p, q = (model.velocity(x, time, model.prepare(one), 0.0) for one in (given, nothing))
    assert np.abs(p - q).max() > 0.1
    tolerance.assert_near(model.velocity(x, time, prepared, 1e-6), p, velocity_tolerance(CONFIG, p))
    # Products of twice the rows may add in another order.
    found = model.velocity(x, time, prepared, 3.0)
    tolerance.assert_near(found, p + 3 * (p - q), velocity_tolerance(CONFIG, p, 3.0))


def test_a_prepared_conditioning_keeps_the_adapter_of_its_time(folder):
    model, given = toys.adapted(folder), conditioning()
    x = toys.batch()["noise"]
    prepared = model.prepare(given)
    before = model.velocity(x, 0.5, prepared, 2.0)
    model.set_adapter(False)
    np.testing.assert_array_equal(model.velocity(x, 0.5, prepared, 2.0), before)
    base = toys.load(folder)
    expected = base.velocity(x, 0.5, base.prepare(given), 2.0)
    assert np.abs(expected - before).max() > 1e-2
    np.testing.assert_array_equal(model.velocity(x, 0.5, model.prepare(given), 2.0), expected)


def test_a_model_is_let_go_with_its_last_reference(folder):
    """Weights of gigabytes must not wait for the garbage collector."""
    model = toys.adapted(folder)
    model.velocity(toys.batch()["noise"], 0.5, model.prepare(conditioning()), 2.0)
    training = model.start_training(OptimSpec())
    training.step([toys.batch()], 1e-3)
    seen = weakref.ref(model)
    gc.disable()
    try:
        del model, training
        assert seen() is None
    finally:
        gc.enable()


def test_the_forms_that_a_gpu_takes_compute_the_same(folder, monkeypatch):
    """MLX's own attention, exponential and sine; they run on a CPU, too."""
    model, given, x = toys.adapted(folder), conditioning(), toys.batch()["noise"]
    expected = model.velocity(x, 0.5, model.prepare(given), 2.0), model.loss(toys.batch()).total
    monkeypatch.setattr(device, "is_gpu", lambda: True)
    other = toys.adapted(folder)
    found = other.velocity(x, 0.5, other.prepare(given), 2.0)
    tolerance.assert_near(found, expected[0], velocity_tolerance(CONFIG, found, 2.0))
    assert other.loss(toys.batch()).total == pytest.approx(expected[1], rel=loss_tolerance(CONFIG, x.shape[1]))


def test_half_precision_stays_near_float32(folder):
    x, given = toys.batch()["noise"], conditioning()
    whole = toys.load(folder)
    expected = whole.velocity(x, 0.5, whole.prepare(given), 2.0)
    for dtype, share in (("bfloat16", 0.1), ("float16", 0.02)):  # 8 and 11 bits through four blocks
        half = toys.load(folder, dtype)
        found = half.velocity(x, 0.5, half.prepare(given), 2.0)
        assert found.dtype == np.float32
        assert np.abs(found - expected).mean() < share * np.abs(expected).mean()
