"""DoRA on MLX arrays: row lengths, the adapted layer, and its fused form."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx


def row_lengths(weight: mx.array, a: mx.array, b: mx.array, scale: float, *, conv1d: bool) -> mx.array:
    """Compute the lengths of the rows of W + scale * B A, float32 [out], without forming the sum; no gradient.

    ||w + s b A||^2 = ||w||^2 + 2 s (A w) . b + s^2 b (A A') b' for each row w of W and b of B. The lengths count as
    constants in the gradient (Liu et al. 2024, arXiv 2402.09353, section 4.3).

    Args:
        weight: [in, out] where conv1d, else [out, in].
        a: [rank, in].
        b: [out, rank].
        scale: of the update.
        conv1d: layout of the weight.

    Returns:
        The lengths; 1 for a row of zeros, which has no direction.
    """
    wide, a, b = (mx.stop_gradient(v.astype(mx.float32)) for v in (weight, a, b))
    along = (a @ wide).T if conv1d else wide @ a.T
    squared = mx.square(wide).sum(axis=0 if conv1d else 1) + scale * ((2 * along + scale * (b @ (a @ a.T))) * b).sum(1)
    return mx.where(squared > 0, mx.sqrt(mx.maximum(squared, 1e-30)), 1.0)


def adapted(
    x: mx.array,
    product: Callable[[mx.array], mx.array],
    factors: tuple[mx.array, mx.array],
    gain: mx.array,
    scale: float,
    mask: mx.array | None,
) -> mx.array:
    """Compute x W' + (gain - 1) * (x' W') + gain * scale * x' A' B' with x' = drop(x), in the dtype of the product.

    As in PEFT, dropout also acts on the part of the base that the gain changes.

    Args:
        x: input of the layer [N, in].
        product: multiplies inputs by the base's weight, without the bias.
        factors: A [rank, in] and B [out, rank].
        gain: magnitudes over row lengths, float32 [out].
        scale: of the update.
        mask: multipliers [N, in], or None.
    """
    a, b = factors
    wide = x.astype(mx.float32)
    dropped = wide if mask is None else wide * mask
    base = product(dropped.astype(x.dtype))
    moved = mx.addmm(base.astype(mx.float32), dropped @ a.T, (b * scale).T)
    # In float32 also for a half-precision base: bfloat16 has no gain between 1 and 1.008.
    changed = gain * moved
    return (changed if mask is None else changed + (product(x) - base).astype(mx.float32)).astype(base.dtype)


def scale_rows(weight: mx.array, magnitude: mx.array, *, conv1d: bool) -> mx.array:
    """Scale the rows of a float32 sum of weights to their magnitudes; a row of zeros stays."""
    lengths = mx.sqrt(mx.square(weight).sum(axis=0 if conv1d else 1))
    gain = magnitude / mx.where(lengths > 0, lengths, 1.0)
    return weight * (gain[None] if conv1d else gain[:, None])
