"""Learning curve: held-out gain at growing shares of the songs, and if more songs would help."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from musiclora.convert.files.atomic import atomic_write, write_json
from musiclora.convert.files.folder_lock import LOCK_FILE
from musiclora.errors import ConfigError, DataError
from musiclora.progress import Reporter
from musiclora.reporting.figure import figure_png
from musiclora.reporting.html import sentence
from musiclora.training.config import TrainConfig
from musiclora.training.folds import OpenSession, run_fold
from musiclora.training.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.25, 0.5, 0.75, 1.0)
PICTURE, RECORD = "learning-curve.png", "learning-curve.json"  # in the output folder
LEAST_SONGS = len(SHARES)  # a quarter of four is one
LEAST_SEEDS = 3  # for an interval that says something
MOST_SEEDS = 30
_ALIKE = 0.3  # of the largest gain; gains of a smaller range are drawn without zero
NEGLIGIBLE = 0.05  # of the gain: a smaller one is no reason to look for more songs
# 97.5 % quantiles of Student's t by degrees of freedom, from 1 on.
_STUDENT_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045),
)


@dataclass(frozen=True)
class Point:
    """One share of the songs.

    Attributes:
        share: in (0, 1].
        songs: number of training songs, the mean over the seeds.
        gains: held-out gain of each seed.
    """

    share: float
    songs: float
    gains: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean gain over the seeds."""
        return mean(self.gains)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None for one seed."""
        return stdev(self.gains) if len(self.gains) > 1 else None


@dataclass(frozen=True)
class LearningCurve:
    """Held-out gain by share of the songs.

    Attributes:
        points: one a share, ascending.
        unit: of the gain: `bits a note` or `loss`.
        folder: the output folder.
    """

    points: tuple[Point, ...]
    unit: str
    folder: Path

    def last_gain(self) -> tuple[float, float, float] | None:
        """Compute what the last quarter of the songs added, with its 95 % interval (Student's t over paired seeds).

        Returns:
            mean, low, high; None for fewer than LEAST_SEEDS seeds.
        """
        steps = [b - a for a, b in zip(self.points[-2].gains, self.points[-1].gains, strict=True)]
        if len(steps) < LEAST_SEEDS:
            return None
        half = _STUDENT_T[len(steps) - 2] * stdev(steps) / math.sqrt(len(steps))
        return mean(steps), mean(steps) - half, mean(steps) + half

    @property
    def more_songs(self) -> str:
        """`help`, `hardly help`, or `unknown` where the spread over the seeds does not carry a statement."""
        found = self.last_gain()
        if found is None:
            return "unknown"
        _, low, high = found
        if low > 0:
            return "help"
        return "hardly help" if high < NEGLIGIBLE * self.points[-1].mean else "unknown"

    def verdict(self) -> str:
        """Say in one line if more songs would help."""
        found = self.last_gain()
        if found is None:
            return f"if more songs would help cannot be said from fewer than {LEAST_SEEDS} seeds; give more --seeds"
        added, low, high = found
        numbers = f"the last quarter of the songs added {added:.3f} {self._unit} (95 % {low:.3f} to {high:.3f})"
        words = {
            "help": "more songs would help",
            "hardly help": "more songs would hardly help",
            "unknown": "if more songs would help cannot be said, the seeds differ too much",
        }
        return f"{words[self.more_songs]}: {numbers}"

    @property
    def _unit(self) -> str:
        return "of the loss" if self.unit == "loss" else self.unit

    def lines(self) -> list[str]:
        """Describe the curve in lines."""
        rows = []
        for p in self.points:
            spread = "" if p.spread is None else f", standard deviation {p.spread:.3f}"
            rows.append(f"{p.share:4.0%} ({p.songs:g} to train on): gain {p.mean:.3f} {self._unit}{spread}")
        return [*rows, self.verdict()]

    def as_json(self) -> dict[str, Any]:
        """Build the object for `--json`."""
        points = [{**dataclasses.asdict(p), "mean": p.mean, "spread": p.spread} for p in self.points]
        found = self.last_gain()
        return {
            "points": points,
            "unit": self.unit,
            "last_quarter": dict(zip(("gain", "low", "high"), found, strict=True)) if found else None,
            "more_songs": self.more_songs,
            "verdict": self.verdict(),
            "picture": str(self.folder / PICTURE),
        }


def measure_curve(
    config: TrainConfig, open_session: OpenSession, reporter: Reporter, seeds: int, restart: bool = False
) -> LearningCurve:
    """Train at each share with each seed; a later call goes on where an earlier one was stopped.

    A seed decides which songs are held out, which of the others are in a share, and the adapter. All shares of one seed
    hold out the same songs, and a larger share holds every smaller one.

    Args:
        config: the options; its output folder gets one run folder `seed-<seed>/<percent>` a training.
        open_session: opens one training run.
        reporter: told what happens.
        seeds: number of seeds, from config.seed on.
        restart: begin again and keep the old folder as a backup.

    Raises:
        ConfigError: a number of seeds out of range, or --val-split 0.
        DataError: fewer than four songs to train on.
        TrainingError: the folder holds another curve.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise ConfigError(f"--seeds is {seeds}; it must lie between 1 and {MOST_SEEDS}")
    if config.val_split == 0:
        raise ConfigError("--val-split 0 holds out no song, and a learning curve is measured on held-out songs")
    run = Run(Path(config.output_dir))
    with run.locked():
        run.recover()
        if restart and any(path.name != LOCK_FILE for path in run.path.iterdir()):
            reporter.say(f"the old curve is kept in {run.set_aside()}")
        return _measure_locked(config, open_session, reporter, seeds)


def _measure_locked(config: TrainConfig, open_session: OpenSession, reporter: Reporter, seeds: int) -> LearningCurve:
    gains: dict[float, list[float]] = {share: [] for share in SHARES}
    songs: dict[float, list[int]] = {share: [] for share in SHARES}
    done, total = 0, seeds * len(SHARES)
    for seed in range(config.seed, config.seed + seeds):
        for share in reversed(SHARES):  # all songs first: too few of them are refused before anything is trained
            done += 1
            reporter.say(f"training {done} of {total}: {share:.0%} of the songs, seed {seed}")
            session = open_session(_point_config(config, seed, share), reporter, None, None)
            if share == SHARES[-1]:
                _check_songs(session.task.count_songs()[0])
            found = run_fold(session)
            gains[share].append(found.gain)
            songs[share].append(found.trained_on)
            reporter.say(f"training {done} of {total}: gain {found.gain:.4f} {found.unit}")
        points = tuple(Point(share, mean(songs[share]), tuple(gains[share])) for share in SHARES)
        curve = LearningCurve(points, found.unit, Path(config.output_dir))
        _write_curve(curve)  # after each seed, so that hours of training leave a picture wherever they are stopped
    return curve


def _write_curve(curve: LearningCurve) -> None:
    atomic_write(curve.folder / PICTURE, figure_png(draw_curve(curve)))
    write_json(curve.folder / RECORD, curve.as_json())


def _point_config(config: TrainConfig, seed: int, share: float) -> TrainConfig:
    folder = Path(config.output_dir) / f"seed-{seed}" / f"{share:.0%}".removesuffix("%")
    changes: dict[str, Any] = {"seed": seed, "subset_seed": seed, "train_share": share, "sample_every": 0}
    return dataclasses.replace(config, output_dir=str(folder), **changes)


def _check_songs(number: int) -> None:
    """Refuse so few songs that two shares would be the same."""
    if number < LEAST_SONGS:
        text = f"a learning curve needs at least {LEAST_SONGS}, so that its shares differ"
        raise DataError(f"{number} songs to train on: {text}; add songs, or lower --val-split")


def draw_curve(curve: LearningCurve) -> Figure:
    """Draw the gain over the number of songs: a thin line a seed, the mean with its values, and the base at zero.

    Where all gains lie far above zero, the axis begins near the lowest one: their differences are what is asked for.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axis = figure.subplots()
    songs: Sequence[float] = [p.songs for p in curve.points]
    for number, gains in enumerate(zip(*(p.gains for p in curve.points), strict=True)):
        label = "one seed" if not number else None
        axis.plot(songs, gains, "o-", color="#2563a8", alpha=0.45, markersize=5, linewidth=0.8, label=label)
    axis.plot(songs, [p.mean for p in curve.points], color="#c2571a", linewidth=2, label="mean")
    for p in curve.points:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
        place: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, 8), "ha": "center", "bbox": box}
        axis.annotate(f"{p.mean:.3f}", (p.songs, p.mean), color="#9a3f0c", fontsize=9, **place)
    unit = curve.unit
    if _is_far_from_zero([gain for p in curve.points for gain in p.gains]):
        unit += " (the base: 0)"
        axis.margins(y=0.25)
    else:
        axis.axhline(0.0, color="#57534e", linewidth=1, linestyle="--", label="the base")
    axis.set_xlabel("songs trained on")
    axis.set_ylabel(f"held-out gain, {unit}")
    axis.set_xticks(list(songs))
    axis.set_title(sentence(curve.verdict().partition(":")[0]), fontsize=10)
    axis.legend(frameon=False)
    axis.grid(alpha=0.25)
    return figure


def _is_far_from_zero(gains: Sequence[float]) -> bool:
    """Return True where all gains are above zero and so alike that an axis from zero would hide their differences."""
    return max(gains) - min(gains) < _ALIKE * max(gains)
