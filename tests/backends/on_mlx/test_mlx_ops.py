"""Hand-written values and derivatives against plain numpy and against MLX's own."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
import tolerance

from musiclora.backends import token_batches
from musiclora.backends.mlx.kernels import attention, head, ops, products

POINTS = np.linspace(-9, 9, 241, dtype=np.float32)

REFERENCES = {
    "gelu_new": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
}


def test_exp_is_right_to_float32_where_a_softmax_uses_it():
    x = np.linspace(-87, 20, 10_001, dtype=np.float32)
    found = np.array(ops.exp(mx.array(x)), np.float64)
    # The last steps of the reduction, of the polynomial and of the scaling are rounded.
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=tolerance.rounding(3))


def test_exp_below_the_smallest_normal_number_is_zero_and_of_nan_is_nan():
    found = np.array(ops.exp(mx.array([-88.5, -1e30, -math.inf, math.nan])))
    assert found[:3].tolist() == [0, 0, 0]
    assert math.isnan(found[3])


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_activation_equals_its_definition(name):
    expected = [REFERENCES[name](float(x)) for x in POINTS]
    # values up to 9 in float32
    np.testing.assert_allclose(
        np.array(ops.ACTIVATION_FUNCTIONS[name](mx.array(POINTS))), expected, rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_activation_derivative_equals_a_difference_quotient(name):
    x = POINTS[POINTS != 0]  # relu has none at 0
    slope = mx.grad(lambda v: (ops.ACTIVATION_FUNCTIONS[name](v) * mx.array(2.0)).sum())(mx.array(x))
    step = 1e-4
    expected = [(REFERENCES[name](float(v) + step) - REFERENCES[name](float(v) - step)) / step for v in x]
    np.testing.assert_allclose(np.array(slope), expected, rtol=1e-5, atol=1e-5)


# --- attention ---


def plain_attention(q, k, v, mask):
    scores = mx.where(mask, q @ mx.swapaxes(k, -1, -2) * q.shape[-1] ** -0.5, -mx.inf)
    return mx.softmax(scores, axis=-1) @ v


@pytest.fixture(params=["kept", "recomputed"])
def blocks_of_four(request, monkeypatch):
    """Rows much longer than a block, with probabilities kept for the backward pass and without."""
    monkeypatch.setattr(attention, "BLOCK_QUERIES", 4)
    monkeypatch.setattr(attention, "KEEP_MAX_TOKENS", 64 if request.param == "kept" else 1)


@pytest.mark.parametrize("length", [1, 4, 11], ids=["one", "one block", "ragged"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.usefixtures("blocks_of_four")
def test_attention_and_its_gradient_equal_the_plain_form(length, packed):
    rng = np.random.default_rng(length)
    q, k, v, weight = (mx.array(rng.normal(size=(2, 3, length, 5)).astype(np.float32)) for _ in range(4))
    segments = mx.array(np.sort(rng.integers(0, 3, (2, length)), axis=1)) if packed else mx.zeros((2, length))
    mask = attention.segment_mask(segments)

    def ours(q, k, v):
        return (attention.attend_causally(q, k, v, mask if packed else None) * weight).sum()

    def plain(q, k, v):
        return (plain_attention(q, k, v, mask) * weight).sum()

    found, expected = (mx.value_and_grad(f, argnums=(0, 1, 2))(q, k, v) for f in (ours, plain))
    # Scores of 5 products, a softmax and values over the row, a sum over all; back the same way.
    terms = 2 * (5 + 2 * length) + 2 * 3 * length * 5
    assert found[0].item() == pytest.approx(
        expected[0].item(), abs=tolerance.rounding(terms, mx.abs(weight).sum().item())
    )
    for mine, theirs in zip(found[1], expected[1], strict=True):
        size = max(1.0, float(np.abs(np.array(theirs)).max()))
        tolerance.assert_near(mine, theirs, tolerance.rounding(2 * (5 + 2 * length), size))


# --- output head ---


@pytest.mark.parametrize("train_head", [False, True], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("chunk", [7, 70, 1 << 22], ids=["rows one by one", "ragged", "one chunk"])
def test_head_loss_and_its_gradient_equal_the_plain_form(monkeypatch, chunk, train_head):
    monkeypatch.setattr(token_batches, "LOGITS_PER_CHUNK", chunk)
    rng = np.random.default_rng(1)
    hidden, wte = (mx.array(rng.normal(size=size).astype(np.float32)) for size in ((23, 5), (7, 5)))
    targets = mx.array(rng.integers(0, 7, 23).astype(np.int32))  # repeated targets: their gradients add up
    weights = mx.array(np.where(np.arange(23) % 5 == 2, 0, 1).astype(np.float32))

    def ours(hidden, wte):
        return 3 * head.loss_for_training(hidden, wte, targets, weights, train_head)

    def plain(hidden, wte):
        logits = hidden @ (wte if train_head else mx.stop_gradient(wte)).T
        picked = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return 3 * ((mx.logsumexp(logits, axis=-1) - picked) * weights).sum()

    found, expected = (mx.value_and_grad(f, argnums=(0, 1))(hidden, wte) for f in (ours, plain))
    relative = tolerance.rounding(5 + 7 + 23)  # logits, a sum over the vocabulary, a sum over the rows
    assert found[0].item() == pytest.approx(expected[0].item(), rel=relative)
    assert head.loss(hidden, wte, targets, weights).item() == pytest.approx(expected[0].item() / 3, rel=relative)
    for mine, theirs in zip(found[1], expected[1], strict=True):
        # Sums over 7 tokens or 23 rows, of probabilities times three times a value.
        size = 3 * max(mx.abs(hidden).sum(0).max().item(), mx.abs(wte).sum(0).max().item())
        tolerance.assert_near(mine, theirs, tolerance.rounding(5 + 7 + 23, size))
    assert (np.abs(np.array(found[1][1])).max() > 0) == train_head


# --- products of few rows ---


@pytest.mark.parametrize("rows", [1, 3, products.SPLIT_MAX_ROWS + 1], ids=["one", "few", "many"])
@pytest.mark.parametrize(("inputs", "outputs"), [(48, 20), (32, 32), (18, 5)], ids=["rectangular", "square", "ragged"])
def test_a_product_of_few_rows_equals_the_plain_one(monkeypatch, rows, inputs, outputs):
    monkeypatch.setattr(products, "_HEAD_MIN_ROWS", 2)
    rng = np.random.default_rng(rows)
    x, weight, bias = (
        rng.normal(size=size).astype(np.float32) for size in ((rows, inputs), (inputs, outputs), outputs)
    )
    found = products.split_linear(mx.array(x), mx.array(weight), mx.array(bias))
    scores = products.split_head(mx.array(x), mx.array(np.ascontiguousarray(weight.T)))
    expected = x.astype(np.float64) @ weight.astype(np.float64)
    limit = tolerance.rounding(inputs + 1, tolerance.absolute_product(x, weight) + np.abs(bias).max())
    tolerance.assert_near(found, expected + bias, limit)
    tolerance.assert_near(scores, expected, limit)


@pytest.mark.parametrize("vocabulary", [5000, 5120], ids=["with a rest", "without"])
@pytest.mark.parametrize("width", [16, 32, 64], ids=["large parts", "small parts", "whole"])
def test_a_large_head_equals_the_plain_product(monkeypatch, vocabulary, width):
    monkeypatch.setattr(products, "_SMALL_PRODUCT", 9 * 16 * 256)
    rng = np.random.default_rng(width)
    x, table = (rng.normal(size=(rows, width)).astype(np.float32) for rows in (9, vocabulary))
    found = products.split_head(mx.array(x), mx.array(table))
    limit = tolerance.rounding(width, tolerance.absolute_product(x, table.T))
    tolerance.assert_near(found, x.astype(np.float64) @ table.T, limit)


def test_sums_of_long_rows_are_as_exact_as_those_of_short_ones():
    """A running sum over equal small values rounds the same way each time: it was wrong by 5e-4 here."""
    values = np.full((2, 55_028), 3.5e-4, np.float32)
    values[:, 5] = 1
    found = np.array(ops.row_sums(mx.array(values)))[:, 0]
    expected = values.sum(axis=1, dtype=np.float64)
    # 256 terms, 214 sums of these, and the rest.
    tolerance.assert_near(found, expected, tolerance.gamma(256 + 215) * expected.max())


def whole_head():
    """Arguments of a head whose logits of all rows take 16 MB, and their size in bytes."""
    rng, rows, vocabulary = np.random.default_rng(0), 512, 8192
    sizes = ((rows, 8), (vocabulary, 8))
    hidden, table = (mx.array(rng.normal(size=size).astype(np.float32)) for size in sizes)
    targets = mx.array(rng.integers(0, vocabulary, rows).astype(np.int32))
    arrays = hidden, table, targets, mx.ones((rows,))
    mx.eval(arrays)
    return arrays, rows * vocabulary * 4


@pytest.mark.parametrize("trained", [None, False, True], ids=["loss", "states", "head"])
def test_the_logits_of_all_rows_never_exist_at_once(trained, monkeypatch):
    monkeypatch.setattr(token_batches, "LOGITS_PER_CHUNK", 1 << 17)  # 32 chunks
    (hidden, table, targets, weights), size = whole_head()

    def total(hidden, table):
        return head.loss_for_training(hidden, table, targets, weights, bool(trained))

    mx.reset_peak_memory()
    before = mx.get_active_memory()
    if trained is None:
        mx.eval(head.loss(hidden, table, targets, weights), head.row_losses(hidden, table, targets))
    else:
        mx.eval(mx.grad(total, int(trained))(hidden, table))
    assert mx.get_peak_memory() - before < 0.6 * size
