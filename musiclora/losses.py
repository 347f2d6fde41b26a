"""Summed losses of songs, the same for both families."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from musiclora.backends.base import Arrays, LossSum, Model


def song_losses(
    model: Model, batches: Sequence[Sequence[Arrays]], on_song: Callable[[int, int], None] | None = None
) -> list[LossSum]:
    """Summed loss of each song, given the batches of each on its own."""
    sums = []
    for number, song in enumerate(batches, 1):
        sums.append(add([model.loss(batch) for batch in song]))
        if on_song is not None:
            on_song(number, len(batches))
    return sums


def add(parts: Sequence[LossSum]) -> LossSum:
    """Sum of sums."""
    return LossSum(sum(p.total for p in parts), sum(p.weight for p in parts))
