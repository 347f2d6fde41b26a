"""Check that adapters change what a model computes, on one batch of random data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musiclora.adapters import Adapter, changes_nothing, empty_updates
from musiclora.backends.base import Arrays, Model
from musiclora.models import BaseModel

_TOKENS = 64  # of the batch


def token_probe(vocab_size: int, n_positions: int) -> Arrays:
    """Draw one row of tokens, int32 [1, L], with all but the first scored."""
    tokens = np.random.default_rng(0).integers(0, vocab_size, (1, min(_TOKENS, n_positions)), dtype=np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[:, 0] = False
    return {"tokens": tokens, "loss_mask": mask}


def note_unchanged_output(
    model: Model, adapters: Sequence[Adapter], batch: Arrays, base: BaseModel | None = None
) -> list[str]:
    """Return a remark where the injected adapters leave the loss of a batch as it is, bit for bit.

    An update that is zero, or multiplied by zero, is said by `empty_updates` already; one that is only too small for
    the arithmetic is found here.

    Args:
        model: the base with the adapters injected and enabled.
        adapters: these adapters.
        batch: such as that of `token_probe`, or an audio architecture's `probe`.
        base: of the adapters; see `empty_updates`.
    """
    if changes_nothing(adapters, base):
        return []
    adapted = model.loss(batch)
    model.set_adapter(False)
    plain = model.loss(batch)
    model.set_adapter(True)
    if adapted.total != plain.total:
        return []
    names = " and ".join(f"{a.path}{'' if a.strength == 1 else f' at strength {a.strength:g}'}" for a in adapters)
    return [f"{names}: does not change the model's output on a test batch; its update is too small to have an effect"]


def note_effect(model: Model, adapters: Sequence[Adapter], batch: Arrays, base: BaseModel) -> list[str]:
    """Return the remarks of `empty_updates` and of `note_unchanged_output`."""
    return [*empty_updates(adapters, base), *note_unchanged_output(model, adapters, batch, base)]
