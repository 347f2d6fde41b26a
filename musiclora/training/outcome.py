"""Outcome of a run as an adapter's record and card state it: split, gain, copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from musiclora.evaluation.copy_figures import CopyFigures
from musiclora.evaluation.scores import Gain, count_pieces
from musiclora.training.fold_summary import FoldSummary
from musiclora.training.weighing import BY_TOKENS


@dataclass(frozen=True)
class RunOutcome:
    """What is known of an adapter when it is saved.

    Attributes:
        songs: numbers of training and held-out songs.
        pieces: `songs` or `recordings`.
        gain: held-out loss of the base minus the adapter's; None before the end or without held-out songs.
        copies: copy figures of samples; None before the end, and where they cannot be measured.
        folds: the cross-validation before a run on all songs, None without one.
        started_from: adapter that training started from, whose songs were trained on too.
        best_step: step of the arrays; None is the latest.
        weigh: what counted the same in training: `tokens` or `songs`.
    """

    songs: tuple[int, int]
    pieces: str = "songs"
    gain: Gain | None = None
    copies: CopyFigures | None = None
    folds: FoldSummary | None = None
    started_from: str | None = None
    best_step: int | None = None
    weigh: str = BY_TOKENS

    def covers(self, step: float) -> bool:
        """Return True where a step is not later than that of the arrays."""
        return self.best_step is None or step <= self.best_step

    def record(self) -> dict[str, Any]:
        """Return the entries of musiclora.json."""
        return {
            "held_out": self.songs[1],
            **({} if self.weigh == BY_TOKENS else {"weigh": self.weigh}),
            **({"gain": {k: v for k, v in asdict(self.gain).items() if k != "by_song"}} if self.gain else {}),
            **({"copies": self.copies.as_json()} if self.copies else {}),
            **({"folds": self.folds.as_json()} if self.folds else {}),
        }

    def lines(self) -> Sequence[str]:
        """Describe split, gain and copies for the card."""
        trained, held_out = self.songs
        lines = [f"split: {count_pieces(trained, self.pieces)} trained on, {held_out} held out"]
        if self.weigh != BY_TOKENS:
            lines.append(f"in training each of the {self.pieces} counted the same, whatever its length")
        if self.gain:
            lines.append(f"on the held-out {self.pieces}: {self.gain.describe()}")
        lines += [f"copying: {self.copies.line()}"] if self.copies else []
        return [*lines, self.folds.card_line()] if self.folds else lines
