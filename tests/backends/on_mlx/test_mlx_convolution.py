"""Convolutions as matrix products, against their definitions in numpy."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from musiclora.backends.mlx import device
from musiclora.backends.mlx.kernels import convolution

RNG = np.random.default_rng(4)
# Sums of some hundred products of normal numbers in float32: rounding reaches a few 1e-5.
CLOSE = {"rtol": 0, "atol": 1e-4}


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def definition(x, kernel, dilation=1, stride=1, padding=0):
    """Y[t] = sum over taps j of x[s t + d j - p] K[j]; x [B, T, in], kernel [k, in, out]; float64."""
    batch, length, _ = x.shape
    reach = (len(kernel) - 1) * dilation
    out = np.zeros((batch, (length + 2 * padding - reach - 1) // stride + 1, kernel.shape[2]))
    for t in range(out.shape[1]):
        for j, tap in enumerate(kernel):
            if 0 <= (at := stride * t + dilation * j - padding) < length:
                out[:, t] += x[:, at].astype(np.float64) @ tap
    return out


def transposed_definition(x, kernel, stride, padding):
    """Y[s t + j - p] += x[t] K[:, :, j]; kernel as in torch, [in, out, k]; float64."""
    batch, length, _ = x.shape
    size = kernel.shape[2]
    whole = np.zeros((batch, (length - 1) * stride + size, kernel.shape[1]))
    for t in range(length):
        for j in range(size):
            whole[:, stride * t + j] += x[:, t].astype(np.float64) @ kernel[:, :, j]
    return whole[:, padding : whole.shape[1] - padding]


@pytest.fixture(params=["cpu", "gpu"])
def form(request, monkeypatch):
    """The form that a kind of device takes; MLX's own operations compute the same, slowly, on a CPU."""
    monkeypatch.setattr(device, "is_gpu", lambda: request.param == "gpu")
    return request.param


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dilation", [1, 3, 9])
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 5), (20, 6), (18, 18)], ids=["narrow", "wide", "square"])
def test_a_dilated_convolution_is_the_sum_over_its_taps(dilation, inputs, outputs):
    x, kernel = normal(2, 31, inputs), normal(7, inputs, outputs)
    found = convolution.same(mx.array(x), mx.array(kernel), dilation)
    np.testing.assert_allclose(np.array(found), definition(x, kernel, dilation, padding=3 * dilation), **CLOSE)


@pytest.mark.usefixtures("form")
def test_a_convolution_of_one_tap_is_a_linear_layer():
    x, kernel = normal(2, 9, 20), normal(1, 20, 3)
    found = convolution.same(mx.array(x), mx.array(kernel))
    np.testing.assert_allclose(np.array(found), definition(x, kernel), **CLOSE)


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("surplus", [0, 1])
def test_downsampling_is_a_strided_convolution_that_leaves_out_what_fills_no_stride(stride, surplus):
    x, kernel = normal(2, 5 * stride + surplus, 3), normal(2 * stride, 3, 4)
    found = np.array(convolution.downsampled(mx.array(x), mx.array(kernel)))
    assert found.shape == (2, 5, 4)
    np.testing.assert_allclose(found, definition(x, kernel, stride=stride, padding=-(-stride // 2)), **CLOSE)


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("length", [1, 5])
def test_upsampling_by_overlap_and_add_is_the_transposed_convolution(stride, length):
    x, kernel = normal(2, length, 3), normal(3, 4, 2 * stride)
    halves = np.ascontiguousarray(kernel.reshape(3, 4, 2, stride).transpose(2, 0, 3, 1))
    found = np.array(convolution.upsampled(mx.array(x), mx.array(halves)))
    assert found.shape == (2, length * stride, 4)
    np.testing.assert_allclose(found, transposed_definition(x, kernel, stride, -(-stride // 2)), **CLOSE)


def grouped_definition(x, kernel):
    """Each group alone; kernel [k, G, in, out]."""
    groups = np.split(x, kernel.shape[1], axis=-1)
    parts = [definition(part, kernel[:, g], padding=len(kernel) // 2) for g, part in enumerate(groups)]
    return np.concatenate(parts, axis=-1)


def test_a_grouped_convolution_connects_channels_within_groups_only():
    x, kernel = normal(2, 12, 12), normal(31, 4, 3, 5)
    found = convolution.grouped(mx.array(x), mx.array(kernel))
    np.testing.assert_allclose(np.array(found), grouped_definition(x, kernel), **CLOSE)


def test_half_precision_loses_no_digits_from_tap_to_tap():
    x, kernel = normal(1, 40, 12), normal(31, 4, 3, 3)
    half, half_kernel = mx.array(x).astype(mx.bfloat16), mx.array(kernel).astype(mx.bfloat16)
    found = np.array(convolution.grouped(half, half_kernel).astype(mx.float32))
    expected = grouped_definition(np.array(half.astype(mx.float32)), np.array(half_kernel.astype(mx.float32)))
    # measured: 2^-8.9 of the whole, for products and the sum are rounded to 8 bits; 2^-7.3 if partial sums were, too
    assert np.sqrt(np.mean((found - expected) ** 2)) < 2**-8 * np.sqrt(np.mean(expected**2))


def test_the_gradients_of_a_grouped_convolution_are_its_adjoints():
    """Linear in each argument: <g, conv(u, K)> is <gradient for x, u>, and the same with another kernel."""
    x, kernel, g = normal(2, 12, 12), normal(31, 4, 3, 5), normal(2, 12, 20)

    def loss(x, kernel):
        return (convolution.grouped(x, kernel) * mx.array(g)).sum()

    for_x, for_kernel = mx.grad(loss, argnums=(0, 1))(mx.array(x), mx.array(kernel))
    u, v = normal(*x.shape), normal(*kernel.shape)
    # sums of thousands of terms of size one to ten
    assert np.vdot(g, grouped_definition(u, kernel)) == pytest.approx(np.vdot(np.array(for_x), u), rel=1e-4, abs=1e-2)
    assert np.vdot(g, grouped_definition(x, v)) == pytest.approx(np.vdot(np.array(for_kernel), v), rel=1e-4, abs=1e-2)
