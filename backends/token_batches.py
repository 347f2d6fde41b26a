"""Token batches: validation and the number of scored targets (numpy)."""

from __future__ import annotations

import numpy as np

from musiclora.backends.base import Arrays
from musiclora.convert.errors import DataError, join_problems

# Logits that exist at one time while a loss is computed: more leave the cache, fewer starve the product.
LOGITS_PER_CHUNK = 1 << 22


def check_token_batch(batch: Arrays, vocab_size: int, n_positions: int) -> None:
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
        raise DataError(f"token batch: {join_problems(problems)}")


def count_tokens(batch: Arrays) -> int:
    """Count the scored targets."""
    return int(np.count_nonzero(batch["loss_mask"]))
