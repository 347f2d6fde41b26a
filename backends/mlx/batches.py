"""Device arrays of a token batch."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from musiclora.backends.base import Arrays

_PAD_MULTIPLE_ROWS = 128  # padding the scored rows to a multiple keeps the compiled shapes few


def token_inputs(batch: Arrays) -> dict[str, mx.array]:
    """Copy tokens, and positions and segments where the batch has them, int32 [B, L]."""
    known = ("tokens", "positions", "segments")
    return {key: mx.array(np.asarray(batch[key], np.int32)) for key in known if key in batch}


def scored_rows(batch: Arrays) -> dict[str, mx.array]:
    """Index the scored states: `rows` int32 [M], `targets` int32 [M], `weights` float32 [M], 1 or 0.

    The state before a scored token predicts it; only these rows pass through the output head. Rows of weight 0 pad M.
    """
    tokens, found = np.asarray(batch["tokens"]).reshape(-1), np.flatnonzero(np.asarray(batch["loss_mask"], bool))
    size = max(1, -(-len(found) // _PAD_MULTIPLE_ROWS)) * _PAD_MULTIPLE_ROWS
    rows, targets, weights = np.zeros(size, np.int32), np.zeros(size, np.int32), np.zeros(size, np.float32)
    rows[: len(found)], targets[: len(found)], weights[: len(found)] = found - 1, tokens[found], 1.0
    return {"rows": mx.array(rows), "targets": mx.array(targets), "weights": mx.array(weights)}
