"""Grouped-query attention against its definition: all keys, masked keys, and a sliding window."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import tolerance

from musiclora.backends.mlx import device
from musiclora.backends.mlx.kernels import grouped_attention

HEADS, GROUPS, WIDTH = 6, 2, 4


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def kind(request, monkeypatch):
    """Both forms; the one that a GPU takes runs on a CPU, too."""
    monkeypatch.setattr(device, "is_gpu", lambda: request.param == "gpu")
    monkeypatch.setattr(grouped_attention, "BLOCK_QUERIES", 8)


@pytest.fixture(params=[0, 1 << 20], ids=["recomputed", "kept"])
def kept(request, monkeypatch):
    monkeypatch.setattr(grouped_attention, "KEEP_MAX_SCORES", request.param)


def plain_attention(q, k, v, mask):
    """The definition, float64; mask bool broadcasts to [B, H, N, S]."""
    k, v = (np.repeat(x, HEADS // GROUPS, axis=1) for x in (k, v))
    scores = np.where(mask, q @ k.swapaxes(-1, -2) * WIDTH**-0.5, -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (shares / shares.sum(axis=-1, keepdims=True)) @ v


def plain_gradients(q, k, v, mask, g):
    """Gradients of the sum of the output times g, from the definition."""
    share = HEADS // GROUPS
    wide_k, wide_v = (np.repeat(x, share, axis=1) for x in (k, v))
    scores = np.where(mask, q @ wide_k.swapaxes(-1, -2) * WIDTH**-0.5, -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = p / p.sum(axis=-1, keepdims=True)
    dp = g @ wide_v.swapaxes(-1, -2)
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) * WIDTH**-0.5
    dk, dv = ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ g
    shape = (q.shape[0], GROUPS, share, k.shape[2], WIDTH)
    return ds @ wide_k, dk.reshape(shape).sum(axis=2), dv.reshape(shape).sum(axis=2)


def arrays(queries, keys, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((HEADS, queries), (GROUPS, keys), (GROUPS, keys), (HEADS, queries))
    return [rng.standard_normal((2, *shape, WIDTH)).astype(np.float32) for shape in shapes]


def assert_equals_definition(attend, mask, q, k, v, g):
    found = attend(*(mx.array(x) for x in (q, k, v)))
    grads = mx.grad(lambda *a: (attend(*a) * mx.array(g)).sum(), argnums=(0, 1, 2))(*(mx.array(x) for x in (q, k, v)))
    q, k, v, g = (x.astype(np.float64) for x in (q, k, v, g))
    expected = plain_attention(q, k, v, mask), *plain_gradients(q, k, v, mask, g)
    # Scores of 4 products, a softmax and values over the row; back the same way, over the heads that share a key.
    terms = 2 * (WIDTH + 2 * max(q.shape[2], k.shape[2]) * HEADS // GROUPS)
    for one, other in zip((found, *grads), expected, strict=True):
        tolerance.assert_near(one, other, tolerance.rounding(terms, max(1.0, np.abs(other).max())))


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 13), (8, 8), (21, 3), (30, 30)], ids=str)
def test_attention_to_all_keys_and_its_gradients_equal_the_definition(queries, keys, kept):
    assert_equals_definition(grouped_attention.attend, np.bool_(True), *arrays(queries, keys))


def test_masked_keys_are_not_seen(kept):
    q, k, v, g = arrays(21, 9)
    valid = np.random.default_rng(3).random((2, 9)) < 0.5
    valid[:, 4] = True

    def attend(q, k, v):
        return grouped_attention.attend(q, k, v, mx.array(valid))

    assert_equals_definition(attend, valid[:, None, None], q, k, v, g)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_an_example_without_a_valid_key_gives_zeros_and_no_gradient(dtype):
    q, k, v, g = (mx.array(x).astype(dtype) for x in arrays(21, 9))
    valid = mx.array(np.repeat([[True], [False]], 9, axis=1))

    def total(q, k, v):
        return (grouped_attention.attend(q, k, v, valid) * g).sum()

    found = np.array(grouped_attention.attend(q, k, v, valid).astype(mx.float32))
    grads = [np.array(x.astype(mx.float32)) for x in mx.grad(total, argnums=(0, 1, 2))(q, k, v)]
    for part in (found, *grads):
        assert np.isfinite(part).all()
        assert not part[1].any()
        assert part[0].any()


@pytest.mark.parametrize(
    ("length", "window"), [(1, 2), (7, 8), (21, 3), (22, 20), (33, 20), (40, 4), (64, 5), (65, 8), (30, 1)], ids=str
)
def test_a_window_sees_the_rows_to_both_sides_and_itself(length, window, kept):
    distance = np.abs(np.arange(length)[:, None] - np.arange(length)[None])

    def attend(q, k, v):
        return grouped_attention.attend_in_window(q, k, v, window)

    assert_equals_definition(attend, distance <= window, *arrays(length, length))


def test_a_long_sequence_has_no_square_of_scores(kind):
    """Of 20,000 rows a square of float32 scores would take 1.6 GB for each head."""
    q = mx.zeros((1, 1, 20_000, 2))
    mx.reset_peak_memory()
    mx.eval(grouped_attention.attend_in_window(q, q, q, 8))
    assert mx.get_peak_memory() < 100e6
