"""The loss curve of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musiclora.convert.files.atomic import atomic_write
from musiclora.reporting.figure import figure_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ALTERED = {"songs": "other keys, where they are drawn", "recordings": "other places, new noise"}
_TWO_LEVELS = (
    "Training is measured with dropout and on altered {pieces} ({altered}), held-out {pieces} as they are:\n"
    "each curve's own course counts, not the distance between the two."
)
LOSS_PLOT = "loss.png"  # in a run folder
_TRAIN_COLOUR, _HELD_OUT_COLOUR, _BASE_COLOUR = "#2563a8", "#c2571a", "#57534e"
_FURTHER_COLOURS = ("#3f7d4e", "#7a4fa3")
# Of metrics.jsonl, such as val_accompaniment_loss. Losses by quarter of the times lie far apart: they would hide it.
_FURTHER_KEY = re.compile(r"val_(?!time_\d)(.+)_loss")


def loss_figure(rows: Sequence[Mapping[str, Any]], loss: str = "nats a token", pieces: str = "songs") -> Figure:
    """Draw training loss, held-out loss, further held-out losses, the base's level and the best step.

    Args:
        rows: lines of metrics.jsonl: `step` with `loss` (a step), or with `val_loss` and further losses such as
            `val_accompaniment_loss` (an evaluation; that of step 0 is the base's).
        loss: unit of the loss, for the axis.
        pieces: `songs` or `recordings`.

    Returns:
        A matplotlib Figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    train = _metric_series(rows, "loss")
    held_out = _metric_series(rows, "val_loss")
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axis = figure.subplots()
    if len(train):
        axis.plot(*train.T, color=_TRAIN_COLOUR, alpha=0.3, linewidth=0.9)
        axis.plot(*_smooth_series(train).T, color=_TRAIN_COLOUR, linewidth=1.8, label="training, smoothed")
    if len(held_out):
        name = f"held-out {pieces}"
        axis.plot(*held_out.T, color=_HELD_OUT_COLOUR, linewidth=1.8, marker="o", markersize=4, label=name)
        if held_out[0, 0] == 0:
            axis.axhline(held_out[0, 1], color=_BASE_COLOUR, linestyle="--", linewidth=1.2, label=f"{name}, base alone")
        further = _draw_further(axis, rows)
        _mark_best(axis, held_out, np.concatenate([train, held_out, *further])[:, 1])
    if len(train) or len(held_out):
        axis.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2)
    else:
        axis.text(0.5, 0.5, "no step was recorded", ha="center", va="center", transform=axis.transAxes)
    if len(train) and len(held_out):
        figure.supxlabel(_TWO_LEVELS.format(pieces=pieces, altered=_ALTERED[pieces]), fontsize=8, color=_BASE_COLOUR)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.set_xlabel("optimiser step", color=_BASE_COLOUR)
    axis.set_ylabel(f"loss, {loss}", color=_BASE_COLOUR)
    axis.grid(axis="y", color="#e7e5e4", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=_BASE_COLOUR, labelsize=9)
    for name, side in axis.spines.items():
        side.set_visible(name == "bottom")
        side.set_color("#a8a29e")
    return figure


def _draw_further(axis: Axes, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """Draw each further held-out loss as a curve of its own.

    Returns:
        the curves, each float64 [N, 2].
    """
    found = {key: match[1] for row in rows for key in row if (match := _FURTHER_KEY.fullmatch(key))}
    curves = []
    for number, (key, name) in enumerate(found.items()):
        series = _metric_series(rows, key)
        if len(series):
            colour = _FURTHER_COLOURS[number % len(_FURTHER_COLOURS)]
            label = f"held-out {name.replace('_', ' ')}"
            axis.plot(*series.T, color=colour, linewidth=1.4, linestyle="-.", marker="s", markersize=3.5, label=label)
            curves.append(series)
    return curves


def _mark_best(axis: Axes, held_out: np.ndarray, losses: np.ndarray) -> None:
    """Mark the best evaluation, and leave room under the curves for its label."""
    # Step 0 is the base: it is never kept, however good it is.
    trained = held_out[held_out[:, 0] > 0] if (held_out[:, 0] > 0).any() else held_out
    step, loss = trained[trained[:, 1].argmin()]
    room = max(float(losses.max() - losses.min()), 0.02 * abs(float(loss)), 1e-6)
    axis.set_ylim(losses.min() - 0.16 * room, losses.max() + 0.05 * room)
    axis.plot([step], [loss], marker="o", markersize=11, markerfacecolor="none", markeredgecolor=_HELD_OUT_COLOUR)
    late = step > 0.8 * held_out[-1, 0]
    axis.annotate(
        f"best {loss:.3f}, step {step:.0f}",
        (step, loss),
        xytext=(-10 if late else 10, -16),
        fontsize=9,
        textcoords="offset points",
        ha="right" if late else "left",
        color=_HELD_OUT_COLOUR,
    )


def _metric_series(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Collect steps and finite values of one quantity, float64 [N, 2]; of several for one step the last."""
    found = {int(row["step"]): float(row[key]) for row in rows if row.get(key) is not None and "step" in row}
    kept = sorted((step, value) for step, value in found.items() if np.isfinite(value))
    return np.array(kept, float).reshape(-1, 2)


def _smooth_series(series: np.ndarray) -> np.ndarray:
    """Smooth by a centred mean over about a twentieth of the points, narrower at the ends."""
    reach = max(1, len(series) // 40)
    sums = np.concatenate([[0.0], np.cumsum(series[:, 1])])
    index = np.arange(len(series))
    half = np.minimum(reach, np.minimum(index, len(series) - 1 - index))
    return np.stack([series[:, 0], (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)], 1)


def loss_plot(path: Path, rows: Sequence[Mapping[str, Any]], loss: str = "nats a token", pieces: str = "songs") -> None:
    """Write the loss curve as a PNG file that appears whole or not at all; see `loss_figure`."""
    atomic_write(path, figure_png(loss_figure(rows, loss, pieces), dpi=130))
