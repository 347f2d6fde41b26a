"""Loss curves of a run as a table that the page draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

TRAINING, HELD_OUT = "training", "held out"
COLOURS = {TRAINING: "#a8a29e", HELD_OUT: "#d97706"}
_MOST_POINTS = 400  # of the training loss; more are averaged


def loss_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return columns step, loss and curve from the lines of metrics.jsonl."""
    import pandas as pd

    training = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    held_out = [(row["step"], row["val_loss"], HELD_OUT) for row in rows if "val_loss" in row]
    size = max(1, -(-len(training) // _MOST_POINTS))
    points = []
    for begin in range(0, len(training), size):
        part = training[begin : begin + size]
        points.append((part[-1][0], sum(loss for _, loss in part) / len(part), TRAINING))
    return pd.DataFrame([*points, *held_out], columns=["step", "loss", "curve"])
