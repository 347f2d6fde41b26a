"""Options and result of the audio demo."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from musiclora.evaluation.audio_distances import Distances, Spread
from musiclora.training.result import TrainResult


@dataclass(frozen=True)
class AudioDemoOptions:
    """What the audio demo does; its defaults take about three minutes on two cores.

    Attributes:
        steps: optimiser steps; fewer where they would not fit into `seconds`.
        rows: windows of six seconds in a step.
        lr, rank, alpha, dropout: of the adapter.
        seconds: longest training.
        takes, train_seconds: recordings to train on, and the least length of each.
        held_seconds: least length of the recording to compare with.
        pieces: how many are generated, each by the base and by the adapted model.
        grid: points of the time axis in generation.
        guidance: strength of the style.
        seed: of everything drawn.
    """

    steps: int = 150
    rows: int = 6
    lr: float = 1e-3
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    seconds: float = 100.0
    takes: int = 15
    train_seconds: float = 20.0
    held_seconds: float = 180.0
    pieces: int = 16
    grid: int = 24
    guidance: float = 2.0
    seed: int = 7


@dataclass(frozen=True)
class AudioDemoResult:
    """What the audio demo achieved.

    Attributes:
        folder: everything it wrote.
        training: the run.
        base, adapted: distances of their music to renders of tunes that nothing was trained or chosen by.
        nearer: by what share the adapted music is nearer, both distances.
        pairs: files by base and adapted model from the same noise.
        held_out: the renders compared with.
        seconds: all in all.
    """

    folder: Path
    training: TrainResult
    base: Distances
    adapted: Distances
    nearer: tuple[Spread, Spread]
    pairs: list[tuple[Path, Path]]
    held_out: list[Path]
    seconds: float

    def lines(self) -> list[str]:
        """The result in words."""
        rows = (
            ("Audio Feature Distance", self.base.afd, self.adapted.afd, self.base.real_afd, self.nearer[0], ".3g"),
            (
                "Spectral Distance, dB²",
                self.base.spectral,
                self.adapted.spectral,
                self.base.real_spectral,
                self.nearer[1],
                ".1f",
            ),
        )
        return [
            *self.training.lines(),
            f"{self.base.generated} clips each, against {self.base.reference} clips of tunes that nothing was trained "
            "or chosen by; smaller is nearer:",
            *(
                f"{name}: {base.value:{form}} by the base, {adapted.value:{form}} adapted ({share.value:.0%} nearer, "
                f"95 % over clips {share.low:.0%} to {share.high:.0%}); real against real {real.value:{form}}"
                for name, base, adapted, real, share, form in rows
            ),
            f"everything is in {self.folder}, open {self.folder / 'report.html'} ({self.seconds:.0f} s in all)",
        ]

    def record(self) -> dict[str, Any]:
        """For --json."""
        return {
            "folder": self.folder,
            "backend": self.training.backend,
            "base": asdict(self.base),
            "adapted": asdict(self.adapted),
            "afd_reduction": asdict(self.nearer[0]),
            "spectral_distance_reduction": asdict(self.nearer[1]),
            "seconds": self.seconds,
            "steps": self.training.progress.step,
        }
