"""Cross-entropy through the tied output head in chunks of rows; the gradient is formed with the loss."""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx

from musiclora.backends import token_batches
from musiclora.backends.mlx.kernels import ops


def _chunk_losses(hidden: mx.array, head: mx.array, targets: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Compute the loss of each row, exp(logits - maximum), and its row sums."""
    logits = (hidden @ head.T).astype(mx.float32)
    top = logits.max(axis=-1, keepdims=True)
    shares = ops.exp_shifted(logits, top)
    total = ops.row_sums(shares)
    picked = mx.take_along_axis(logits, targets[:, None], axis=-1)
    return (mx.log(total) + top - picked)[:, 0], shares, total


def _chunk_slices(rows: int, vocabulary: int) -> list[slice]:
    size = max(1, token_batches.LOGITS_PER_CHUNK // vocabulary)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def loss(hidden: mx.array, head: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
    """Sum the weighted cross-entropy in nats over rows, a float32 scalar.

    Args:
        hidden: states [M, d].
        head: [V, d].
        targets: int32 [M].
        weights: float32 [M]; 0 for rows that only fill up a fixed size.
    """
    total = mx.zeros((), mx.float32)
    for rows in _chunk_slices(hidden.shape[0], head.shape[0]):
        total = total + (_chunk_losses(hidden[rows], head, targets[rows])[0] * weights[rows]).sum()
        mx.eval(total)  # so that the logits of few chunks exist at a time
    return total


def row_losses(hidden: mx.array, head: mx.array, targets: mx.array) -> mx.array:
    """Compute the cross-entropy in nats of each row, float32 [M]; see `loss`."""
    found: list[mx.array] = []
    for rows in _chunk_slices(hidden.shape[0], head.shape[0]):
        found.append(_chunk_losses(hidden[rows], head, targets[rows])[0])
        mx.eval(found[-1])
    return mx.concatenate(found)


def loss_for_training(
    hidden: mx.array, head: mx.array, targets: mx.array, weights: mx.array, train_head: bool
) -> mx.array:
    """Compute `loss` with a gradient with respect to hidden and, with train_head, to head."""
    if train_head:
        outputs = _trained_head(hidden, head, targets, weights)
    else:
        outputs = _frozen_head(hidden, mx.stop_gradient(head), targets, weights)
    return cast(list[mx.array], outputs)[0]


def _loss_and_gradients(
    hidden: mx.array, head: mx.array, targets: mx.array, weights: mx.array, train_head: bool
) -> list[mx.array]:
    total = mx.zeros((), mx.float32)
    grads: list[mx.array] = []
    grad_head = mx.zeros(head.shape, mx.float32) if train_head else None
    for rows in _chunk_slices(hidden.shape[0], head.shape[0]):
        # Chunks wait for each other: MLX would begin with the logits of all. It still queues some operations ahead.
        done = [array for array in (total, *grads[-1:], grad_head) if array is not None]
        part, weight = mx.depends([hidden[rows]], done)[0], weights[rows][:, None]
        losses, shares, sums = _chunk_losses(part, head, targets[rows])
        total = total + (losses[:, None] * weight).sum()
        # The gradient of the logits is weight * (shares / sums - onehot); neither division nor one-hot is formed.
        factor = weight / sums
        shares = shares.astype(part.dtype)
        mixed = (shares @ head).astype(mx.float32) * factor
        grads.append((mixed - head[targets[rows]].astype(mx.float32) * weight).astype(part.dtype))
        if grad_head is not None:
            wide = part.astype(mx.float32)
            grad_head = grad_head + shares.T @ (wide * factor).astype(part.dtype)
            grad_head = grad_head.at[targets[rows]].add(-wide * weight)
    grad = mx.concatenate(grads)
    return [total, grad] if grad_head is None else [total, grad, grad_head.astype(head.dtype)]


@mx.custom_function
def _frozen_head(hidden: mx.array, head: mx.array, targets: mx.array, weights: mx.array) -> list[mx.array]:
    return _loss_and_gradients(hidden, head, targets, weights, False)


@mx.custom_function
def _trained_head(hidden: mx.array, head: mx.array, targets: mx.array, weights: mx.array) -> list[mx.array]:
    return _loss_and_gradients(hidden, head, targets, weights, True)


def _scale_gradients(primals: Any, cotangents: Any, outputs: Any) -> Any:
    """Scale the gradients that the forward pass has formed (vjp of both functions)."""
    grads = [output * cotangents[0].astype(output.dtype) for output in outputs[1:]]
    return [*grads, *(mx.zeros_like(p) for p in primals[len(grads) :])]


_frozen_head.vjp(_scale_gradients)
_trained_head.vjp(_scale_gradients)
