"""Words for a base that does not know the recordings, whatever its architecture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from musiclora.audio.latents.levels import LARGE_LATENTS
from musiclora.audio.loss_baseline import baseline_loss, latent_size
from musiclora.backends.base import Arrays
from musiclora.evaluation.verdict import BaseCheck


def compare_with_baseline(name: str, loss: float, batches: Sequence[Arrays]) -> BaseCheck:
    """Compare a base's loss with the closed-form linear baseline.

    Args:
        name: the base's.
        loss: its loss on the batches.
        batches: of recordings.

    Returns:
        Both losses, and a warning with the likely cause where the base is no better.
    """
    check = BaseCheck(loss, baseline_loss(batches))
    if check.is_known:
        return check
    return dataclasses.replace(check, warning=f"{doubt_text(name, check)}; {level_advice(batches)}")


def doubt_text(name: str, check: BaseCheck) -> str:
    """Say that a base does not know the recordings."""
    return (
        f"{name} predicts these recordings no better than without hearing them (loss {check.loss:.3f}, "
        f"guess {check.guess:.3f})"
    )


def level_advice(batches: Sequence[Arrays]) -> str:
    """Name the cause as far as the size of the latents tells it."""
    size = latent_size(batches)
    if size <= LARGE_LATENTS:
        return "model, codec and recordings may not belong together"
    return (
        f"the latents are {size:.0f} times as large as the codec's usual ones: the recordings are too loud for it; "
        "encode them again with musiclora preprocess, or cut them with a lower --loudness, such as -30"
    )
