"""Redrawing of pieces that copy: what is kept, and with which random numbers it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from symusic import Score


class DrawnPiece(Protocol):
    """Piece that may be drawn again."""

    @property
    def score(self) -> Score:
        """The whole piece, in ticks."""

    @property
    def given(self) -> Score | None:
        """Given notes, in the ticks of `score`."""


PieceT = TypeVar("PieceT", bound=DrawnPiece)


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


def redraw_copies(
    made: Sequence[PieceT], rule: Redraw | None, draw_again: Callable[[Mapping[int, float], int], Mapping[int, PieceT]]
) -> list[PieceT]:
    """Draw pieces again until they copy nothing, or the rule's attempts are used up.

    Args:
        made: pieces as they were drawn first.
        rule: finds copies; None leaves all pieces as they are.
        draw_again: draws pieces anew. It gets, by index into `made`, the onset in quarter notes before which each is
            kept, and the number of the attempt from 1 on; it returns the new pieces by the same index.
    """
    found = list(made)
    for attempt in range(1, rule.most + 1 if rule else 1):
        onsets = {i: rule.begin_before(p.score, p.given, attempt) for i, p in enumerate(found)} if rule else {}
        copied = {i: onset for i, onset in onsets.items() if onset is not None}
        if not copied:
            break
        for i, piece in draw_again(copied, attempt).items():
            found[i] = piece
    return found


def redraw_seed(seed: int, attempt: int) -> int:
    """Return the seed of an attempt, 63 bits; attempt 0 is the seed itself."""
    if not attempt:
        return seed
    return int(np.random.SeedSequence([seed, attempt]).generate_state(1, np.uint64)[0] >> np.uint64(1))
