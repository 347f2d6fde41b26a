"""Token batches: checked in numpy, then the arrays that a pass over them reads."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from musiclora.backends.base import Arrays
from musiclora.convert.errors import DataError, listed

_FILL = 128  # the number of scored rows is filled up to a multiple, so that few shapes are ever compiled


def check(batch: Arrays, vocab_size: int, n_positions: int) -> None:
    """Compare a token batch with the model.

    Raises:
        DataError: rows that are too long, ids or positions out of range, shapes that differ; all at once.
    """
    tokens = np.asarray(batch["tokens"])
    if tokens.ndim != 2 or not tokens.size:
        raise DataError(f"a token batch needs tokens [B, L]; it has shape {list(tokens.shape)}")
    problems = [
        f"{key} has shape {list(np.shape(batch[key]))}, tokens {list(tokens.shape)}"
        for key in ("loss_mask", "positions", "segments")
        if key in batch and np.shape(batch[key]) != tokens.shape
    ]
    if tokens.shape[1] > n_positions:
        problems.append(f"rows have {tokens.shape[1]} tokens; this model takes at most {n_positions}")
    for key, limit in (("tokens", vocab_size), ("positions", n_positions)):
        if key in batch and not (0 <= np.min(batch[key]) and np.max(batch[key]) < limit):
            problems.append(f"{key} go from {np.min(batch[key])} to {np.max(batch[key])}; allowed are 0 to {limit - 1}")
    if "loss_mask" in batch and not problems and np.asarray(batch["loss_mask"])[:, 0].any():
        problems.append("loss_mask scores column 0, which nothing predicts")
    if problems:
        raise DataError(f"token batch: {listed(problems)}")


def inputs(batch: Arrays) -> dict[str, mx.array]:
    """Tokens, and positions and segments where the batch has them, int32 [B, L]."""
    known = ("tokens", "positions", "segments")
    return {key: mx.array(np.asarray(batch[key], np.int32)) for key in known if key in batch}


def weight(batch: Arrays) -> int:
    """How many targets are scored."""
    return int(np.count_nonzero(batch["loss_mask"]))


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
