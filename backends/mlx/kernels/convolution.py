"""Convolutions over time as matrix products, which the CPU build computes an order of magnitude faster.

MLX's own dilated, transposed and grouped convolutions are slow on the CPU: 0.7 GFLOP/s, and 0.6 for the gradient of the
grouped one, where matrix products reach 30 on one core. Here a convolution is a sum of products over shifted windows of
its input, one product per tap; no window is copied. On GPUs plain and dilated convolutions are MLX's own.
"""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx

from musiclora.backends.mlx import device

_NARROW_CHANNELS = 16  # inputs per tap below which one product over all taps is faster than one per tap


def taps(x: mx.array, kernel: mx.array, dilation: int = 1) -> mx.array:
    """Sum x[..., j d : j d + L, :] @ kernel[j] over the taps j.

    Args:
        x: [..., L + (k - 1) d, in], padded already.
        kernel: [k, ..., in, out].
        dilation: d, samples between taps.

    Returns:
        [..., L, out] in the dtype of x; half precision is summed in float32, or each tap would cost digits.
    """
    length = x.shape[-2] - (kernel.shape[0] - 1) * dilation
    y = (x[..., :length, :] @ kernel[0]).astype(mx.float32)
    for j in range(1, kernel.shape[0]):
        window = x[..., j * dilation : j * dilation + length, :]
        if window.dtype == mx.float32:
            y = mx.addmm(y, window, kernel[j])
        else:
            y = y + (window @ kernel[j]).astype(mx.float32)
    return y.astype(x.dtype)


def same(x: mx.array, kernel: mx.array, dilation: int = 1) -> mx.array:
    """Convolve x [B, T, in] with kernel [k, in, out], k odd, zero-padded to keep the length."""
    margin = kernel.shape[0] // 2 * dilation
    if kernel.shape[0] == 1:
        return x @ kernel[0]
    if device.is_gpu() or (dilation == 1 and x.shape[-1] < _NARROW_CHANNELS):
        return mx.conv1d(x, kernel.transpose(2, 0, 1), padding=margin, dilation=dilation)
    return taps(mx.pad(x, [(0, 0), (margin, margin), (0, 0)]), kernel, dilation)


def margin_of(stride: int) -> int:
    """Return the padding at each end of a convolution that changes the rate."""
    return -(-stride // 2)


def downsampled(x: mx.array, kernel: mx.array) -> mx.array:
    """Convolve with 2 s taps and stride s, padded by half a stride; a last partial stride is dropped.

    Two products: taps 0 to s - 1 see one stretch of s samples, the others the next.

    Args:
        x: [B, T, in].
        kernel: [2 s, in, out].
    """
    stride = kernel.shape[0] // 2
    margin = margin_of(stride)
    length = (x.shape[1] + 2 * margin - 2 * stride) // stride + 1
    x = mx.pad(x, [(0, 0), (margin, margin), (0, 0)])[:, : (length + 1) * stride]
    stretches = x.reshape(x.shape[0], length + 1, -1)
    early, late = kernel.reshape(2, -1, kernel.shape[-1])
    return mx.addmm(stretches[:, :length] @ early, stretches[:, 1:], late)


def upsampled(x: mx.array, kernel: mx.array) -> mx.array:
    """Apply a transposed convolution of 2 s taps and stride s; for even s it inverts the shape of `downsampled`.

    Each frame adds 2 s samples to the output; the first half of them lies in its own stretch of s samples and the
    second half in the next one.

    Args:
        x: [B, T, in].
        kernel: [2, in, s, out], taps 0 to s - 1 and taps s to 2 s - 1.

    Returns:
        [B, (T + 1) s - 2 ceil(s / 2), out].
    """
    batch, length, _ = x.shape
    _, inputs, stride, outputs = kernel.shape
    early, late = kernel.reshape(2, inputs, stride * outputs)
    whole = mx.pad(x @ early, [(0, 0), (0, 1), (0, 0)]) + mx.pad(x @ late, [(0, 0), (1, 0), (0, 0)])
    margin = margin_of(stride)
    return whole.reshape(batch, (length + 1) * stride, outputs)[:, margin : (length + 1) * stride - margin]


def grouped(x: mx.array, kernel: mx.array) -> mx.array:
    """Convolve within groups of channels and keep the length; differentiable in both arguments.

    Args:
        x: [B, T, C].
        kernel: [k, G, C / G, D / G] with k odd.

    Returns:
        [B, T, D].
    """
    batch, length, _ = x.shape
    size, groups, inputs, outputs = kernel.shape
    margin = size // 2
    apart = x.reshape(batch, length, groups, inputs).transpose(0, 2, 1, 3)
    apart = mx.pad(apart, [(0, 0), (0, 0), (margin, margin), (0, 0)])
    y = cast(list[mx.array], _grouped(apart, kernel))[0]
    return y.transpose(0, 2, 1, 3).reshape(batch, length, groups * outputs)


@mx.custom_function
def _grouped(x: mx.array, kernel: mx.array) -> list[mx.array]:
    """Apply `taps` to x [B, G, L + k - 1, in] with a gradient made of products."""
    return [taps(x, kernel)]


@_grouped.vjp
def _(primals: Any, cotangents: Any, outputs: Any) -> Any:
    x, kernel = primals
    grad, size = cotangents[0], kernel.shape[0]
    length = grad.shape[-2]
    padded = mx.pad(grad, [(0, 0), (0, 0), (size - 1, size - 1), (0, 0)])
    # MLX never evaluates an unused gradient, so the kernel's costs nothing while only an adapter is trained.
    windows = [x[..., j : j + length, :] for j in range(size)]
    for_kernel = mx.stack([(mx.swapaxes(window, -1, -2) @ grad).sum(axis=0) for window in windows])
    return [taps(padded, mx.swapaxes(kernel[::-1], -1, -2)), for_kernel]
