"""The arrays that a pass over a token batch reads."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from musiclora.backends.base import Arrays

_FILL = 128  # the number of scored rows is filled up to a multiple, so that few shapes are ever compiled


def inputs(batch: Arrays) -> dict[str, mx.array]:
    """Tokens, and positions and segments where the batch has them, int32 [B, L]."""
    known = ("tokens", "positions", "segments")
    return {key: mx.array(np.asarray(batch[key], np.int32)) for key in known if key in batch}


def scored(batch: Arrays) -> dict[str, mx.array]:
    """Which states are scored and by what: `rows` int32 [M], `targets` int32 [M], `weights` float32 [M], 1 or 0.

    The state before a scored token predicts it; only these rows go through the output head. M is filled up with rows
    of weight 0.
    """
    tokens, found = np.asarray(batch["tokens"]).reshape(-1), np.flatnonzero(np.asarray(batch["loss_mask"], bool))
    size = max(1, -(-len(found) // _FILL)) * _FILL
    rows, targets, weights = np.zeros(size, np.int32), np.zeros(size, np.int32), np.zeros(size, np.float32)
    rows[: len(found)], targets[: len(found)], weights[: len(found)] = found - 1, tokens[found], 1.0
    return {"rows": mx.array(rows), "targets": mx.array(targets), "weights": mx.array(weights)}
