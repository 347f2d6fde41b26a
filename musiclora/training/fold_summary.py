"""Summary of a cross-validation: the gain of each fold, all of them together, and the steps that they choose."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Protocol

import numpy as np

from musiclora.evaluation.scores import Gain, bootstrap_gain
from musiclora.training.config import TrainConfig

FEW_SONGS = 20  # up to here one held-out share holds too few songs for a verdict


@dataclass(frozen=True)
class FoldResult:
    """Result of one fold.

    Attributes:
        by_song: for each held-out song the gain over all its notes, or values, and their number.
        unit: of the gain: `bits a note` or `loss`.
        base, best: held-out loss of the base and of the fold's best adapter.
        best_step: optimiser step of the best adapter.
        steps: optimiser steps that were trained.
        trained_on: number of training songs.
    """

    by_song: tuple[tuple[float, float], ...]
    unit: str
    base: float
    best: float
    best_step: int
    steps: int
    trained_on: int

    @property
    def gain(self) -> float:
        """Gain of the fold over its held-out songs."""
        return sum(total for total, _ in self.by_song) / max(sum(count for _, count in self.by_song), 1)


@dataclass(frozen=True)
class FoldSummary:
    """Results of all folds of a cross-validation."""

    folds: tuple[FoldResult, ...]

    @property
    def gain(self) -> Gain:
        """Gain over all songs, each scored by the fold that did not train on it.

        The interval comes from the songs: the folds' trainings share most of their songs, so that K gains are not K
        independent measurements (Bengio and Grandvalet 2004).
        """
        pairs = np.array([pair for fold in self.folds for pair in fold.by_song], float)
        return bootstrap_gain(pairs[:, 0], pairs[:, 1], self.folds[0].unit)

    @property
    def steps(self) -> int:
        """Median of the folds' best steps, rounded: the optimiser steps of the run on all songs."""
        return max(1, round(median(fold.best_step for fold in self.folds)))

    @property
    def mean(self) -> float:
        """Mean of the folds' gains."""
        return float(np.mean([fold.gain for fold in self.folds]))

    @property
    def spread(self) -> float:
        """Sample standard deviation of the folds' gains."""
        return float(np.std([fold.gain for fold in self.folds], ddof=1))

    def describe(self) -> str:
        """Format the folds' mean gain, its spread and the chosen steps in one line."""
        unit = self.folds[0].unit
        what = "a loss lowered by" if unit == "loss" else "a gain of"
        each = "" if unit == "loss" else f" {unit}"
        gains = [fold.gain for fold in self.folds]
        return (
            f"{len(self.folds)} folds: {what} {self.mean:.3f}{each} on average, standard deviation {self.spread:.3f} "
            f"({min(gains):.3f} to {max(gains):.3f}); they chose {self.steps} steps"
        )

    def card_line(self) -> str:
        """State the split and the gain for an adapter's card."""
        return (
            f"cross-validation over songs in {self.describe()} for the adapter on all songs, which itself was scored "
            f"on none; over all songs, each scored by a fold that was not trained on it: {self.gain.describe()}"
        )

    def as_json(self) -> dict[str, Any]:
        """Build the entry `folds` of training_meta.json and musiclora.json; it names no song."""
        found = self.gain
        left_out = ("by_song", "unit")
        rows = [{k: v for k, v in {**asdict(f), "gain": f.gain}.items() if k not in left_out} for f in self.folds]
        return {
            "count": len(self.folds),
            "gain_mean": self.mean,
            "gain_spread": self.spread,
            "unit": found.unit,
            "gain": found.mean,
            "low": found.low,
            "high": found.high,
            "songs": found.songs,
            "steps": self.steps,
            "each": rows,
        }


class CountsSongs(Protocol):
    """Data of a training task."""

    def count_songs(self) -> tuple[int, int]:
        """Count the songs to train on and the held-out ones."""


def recommend_for(config: TrainConfig, task: CountsSongs) -> list[str]:
    """Return a note that recommends cross-validation, where a run has few songs and holds some of them out."""
    train, held_out = task.count_songs()
    number = train + held_out
    whole_run = config.fold is None and config.train_share is None and config.trainable == "adapter"
    if not whole_run or not held_out or not 3 <= number <= FEW_SONGS:
        return []
    return [
        f"{number} in all, {held_out} held out: too few for a sure verdict; --folds {min(5, number)} holds out each "
        "one once, and then trains on all"
    ]


def note_nothing_held_out(config: TrainConfig, pieces: str) -> list[str]:
    """Return a note on a run that holds out nothing, and on the reason.

    Args:
        config: the options.
        pieces: `songs` or `recordings`.
    """
    if config.val_split or config.held_fold:
        return []
    if config.folds:
        return [f"no {pieces} are held out: the folds have measured each of them"]
    return [f"no {pieces} are held out (--val-split 0)"]
