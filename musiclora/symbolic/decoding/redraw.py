"""Redrawing of pieces that copy: what is kept, and with which random numbers it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from symusic import Score


@dataclass(frozen=True)
class Redraw:
    """Rule by which pieces are drawn again.

    Attributes:
        find_copy: returns the onset in quarter notes at which a copied passage of a score begins, None without one;
            the second score holds given notes, which do not count.
        most: how often a piece is drawn again.
    """

    find_copy: Callable[[Score, Score | None], float | None]
    most: int = 8

    def begin_before(self, score: Score, given: Score | None, attempt: int) -> float | None:
        """Return the onset before which a piece is kept, in quarter notes; None where it copies nothing.

        A model that leads into a copy is given more room with every attempt: four more quarter notes.
        """
        onset = self.find_copy(score, given)
        return None if onset is None else max(0.0, onset - 4.0 * (attempt - 1))


def redraw_seed(seed: int, attempt: int) -> int:
    """Return the seed of an attempt, 63 bits; attempt 0 is the seed itself."""
    if not attempt:
        return seed
    return int(np.random.SeedSequence([seed, attempt]).generate_state(1, np.uint64)[0] >> np.uint64(1))
