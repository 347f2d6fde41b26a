"""Element-wise functions and their derivatives, in a form that is fast on both kinds of device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from musiclora.backends.mlx import device

Unary = Callable[[mx.array], mx.array]

# exp(r) on |r| <= ln(2)/2 is 1 + r + r^2 P(r); coefficients from Cephes (expf), which is in the public domain.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_ROUND = 12582912.0  # 1.5 * 2^23: adding and subtracting it rounds a small float to an integer
_SUM_PART = 256  # near the root of 55,000: neither level of the sum is long
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4


def _exp_by_polynomial(x: mx.array) -> mx.array:
    """Compute exp of float32 with a relative error of 1e-7; 0 below -88, and at most exp(80).

    MLX's own exp is computed element by element on Linux CPUs (10 ns); this one is additions and multiplications that
    mx.compile's compiler turns into vector instructions (1.2 to 1.7 ns).
    """
    x = mx.minimum(mx.maximum(x, -88.0), 80.0)
    n = (x * 1.4426950408889634 + _ROUND) - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = r * _EXP[0] + _EXP[1]
    for coefficient in _EXP[2:]:
        p = p * r + coefficient
    power = mx.left_shift(n.astype(mx.int32) + 127, 23).view(mx.float32)  # 2^n by its bits; n = -127 gives 0
    return (p * r * r + r + 1.0) * power


def exp(x: mx.array) -> mx.array:
    """Compute exp of float32; large arguments may saturate (see _exp_by_polynomial)."""
    return mx.exp(x) if device.is_gpu() else _exp_by_polynomial(x)


@mx.compile
def exp_shifted(x: mx.array, shift: mx.array) -> mx.array:
    """Compute exp(x - shift), float32; shift is the row maximum."""
    return exp(x - shift)


def row_sums(x: mx.array) -> mx.array:
    """Sum float32 [M, n] over each row, [M, 1]; long rows in parts.

    MLX adds up a row on the CPU build in one running sum, which over the 55,000 shares of a large head was wrong by
    1e-3, since each is small beside the sum.
    """
    parts = x.shape[1] // _SUM_PART
    if parts < 2 or device.is_gpu():
        return x.sum(axis=-1, keepdims=True)
    whole = x[:, : parts * _SUM_PART].reshape(x.shape[0], parts, _SUM_PART).sum(axis=-1)
    return whole.sum(axis=-1, keepdims=True) + x[:, parts * _SUM_PART :].sum(axis=-1, keepdims=True)


def sigmoid(x: mx.array) -> mx.array:
    return 1.0 / (1.0 + exp(-x))


def _gelu_tanh(x: mx.array) -> tuple[mx.array, mx.array]:
    """Compute GELU by tanh (arXiv 1606.08415) and its derivative; 0.5 (1 + tanh u) = sigmoid(2u)."""
    square = x * x
    s = sigmoid(x * (1.5957691216057308 + 0.07135481282052838 * square))
    return x * s, s + x * s * (1.0 - s) * (1.5957691216057308 + 0.21406443846158513 * square)


def _gelu(x: mx.array) -> tuple[mx.array, mx.array]:
    cdf = 0.5 * (1.0 + mx.erf(x * 0.7071067811865476))
    return x * cdf, cdf + x * 0.3989422804014327 * mx.exp(-0.5 * x * x)


def _silu(x: mx.array) -> tuple[mx.array, mx.array]:
    s = sigmoid(x)
    return x * s, s * (1.0 + x * (1.0 - s))


def _relu(x: mx.array) -> tuple[mx.array, mx.array]:
    return mx.maximum(x, 0.0), (x > 0).astype(x.dtype)


def _tanh(x: mx.array) -> tuple[mx.array, mx.array]:
    y = mx.tanh(x)
    return y, 1.0 - y * y


def _mish(x: mx.array) -> tuple[mx.array, mx.array]:
    """Compute x tanh(ln(1 + e)), e = exp(x) (Misra 2019, arXiv 1908.08681), and its derivative, without a logarithm."""
    e = exp(mx.minimum(x, 20.0))  # beyond 20 the tanh is 1 in float32, and e squared would grow for nothing
    product = e * (e + 2.0)
    t = product / (product + 2.0)
    return x * t, t + x * (1.0 - t * t) * e / (1.0 + e)


_PAIRS: dict[str, Callable[[mx.array], tuple[mx.array, mx.array]]] = {
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu": _gelu,
    "relu": _relu,
    "silu": _silu,
    "swish": _silu,
    "tanh": _tanh,
    "mish": _mish,
}


def _with_derivative(pair: Callable[[mx.array], tuple[mx.array, mx.array]]) -> Unary:
    """Build a function that computes its derivative together with its value, in one pass over the input."""

    @mx.compile
    def both(x: mx.array) -> tuple[mx.array, mx.array]:
        value, slope = pair(x.astype(mx.float32))
        return value.astype(x.dtype), slope.astype(x.dtype)

    function: Any = mx.custom_function(both)

    @function.vjp
    def _(primals: Any, cotangents: Any, outputs: Any) -> mx.array:
        return cotangents[0] * outputs[1]

    def value(x: mx.array) -> mx.array:
        result: mx.array = function(x)[0]
        return result

    return value


ACTIVATION_FUNCTIONS: dict[str, Unary] = {name: _with_derivative(pair) for name, pair in _PAIRS.items()}
