#!/usr/bin/env python3
"""Draw the README's picture from a finished demo run.

    musiclora demo --output-dir musiclora-demo
    python docs/make_picture.py musiclora-demo docs/picture.png

From the top: the first bars of one piece by the base and by the adapted model, from the same random draws, with a lane
for each instrument; the loss on held-out songs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from symusic import Score

from musiclora.reporting.band_roll import draw_lanes, plan_geometry
from musiclora.reporting.figure import figure_png
from musiclora.reporting.lanes import shared_limits
from musiclora.reporting.roll import Roll, roll_of

BASE, ADAPTED = "#57534e", "#c2571a"
QUARTERS = 24.0  # most that are drawn of each piece
DPI = 200  # 1600 pixels, shown at 800


def first_bars(roll: Roll, stop: float) -> Roll:
    """Return the notes that begin before a time in quarters, so that lanes are those of what is drawn."""
    notes = roll.start < stop
    hits = roll.hits[roll.hits[:, 0] < stop]
    names = ("start", "duration", "pitch", "velocity", "track")
    return dataclasses.replace(roll, **{name: getattr(roll, name)[notes] for name in names}, hits=hits)


def draw_loss(axis: Any, rows: list[dict[str, Any]]) -> None:
    """Draw the held-out loss of the adapter by step, and the base's as a line."""
    steps, losses = zip(*((row["step"], row["val_loss"]) for row in rows if "val_loss" in row), strict=True)
    axis.axhline(losses[0], color=BASE, linewidth=1.5, linestyle="--")
    axis.plot(steps, losses, color=ADAPTED, linewidth=2, marker="o", markersize=4)
    axis.annotate(
        "base", (steps[-1], losses[0]), (0, 4), textcoords="offset points", ha="right", fontsize=9, color=BASE
    )
    axis.annotate(
        "adapted", (steps[-1], losses[-1]), (0, 8), textcoords="offset points", ha="right", fontsize=9, color=ADAPTED
    )
    axis.margins(y=0.12)
    axis.set_title("loss on held-out songs", loc="left", fontsize=10, fontweight="bold", color=BASE)
    axis.set_xlabel("optimiser step", fontsize=8, color=BASE)
    axis.set_ylabel("nats a token", fontsize=8, color=BASE)
    axis.tick_params(labelsize=8, colors=BASE, length=0)
    axis.grid(axis="y", color="#e7e5e4", linewidth=0.8)
    axis.set_axisbelow(True)


def draw(demo: Path, piece: str) -> Figure:
    """Draw piano rolls and loss of a demo run.

    Args:
        demo: output folder of `musiclora demo`.
        piece: number of the piece, as in its file names.
    """
    whole = [roll_of(Score(str(demo / "music" / f"{piece}-{name}.mid"))) for name in ("base", "adapted")]
    stop = min(QUARTERS, *(float(roll.bars[-1]) for roll in whole))
    rolls = [first_bars(roll, stop) for roll in whole]
    limits = shared_limits(rolls)
    height = min(3.2, plan_geometry(limits).height)
    figure = Figure(figsize=(8, 2 * height + 2.4), layout="constrained")
    axes = figure.subplot_mosaic([["base"], ["adapted"], ["loss"]], height_ratios=[height, height, 1.1])
    titles = ("a band song goes on: base model", "adapted to ska songs, from the same bars and random draws")
    for name, roll, title, colour in zip(("base", "adapted"), rolls, titles, (BASE, ADAPTED), strict=True):
        draw_lanes(axes[name], roll, limits, 0.0, stop, stop)
        axes[name].set_title(title, loc="left", fontsize=10, fontweight="bold", color=colour)
    lines = (demo / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    draw_loss(axes["loss"], [json.loads(line) for line in lines])
    for side in axes["loss"].spines.values():
        side.set_visible(False)
    return figure


def main() -> None:
    """Write the picture that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="output folder of `musiclora demo`")
    parser.add_argument("output", type=Path, help="PNG file")
    parser.add_argument("--piece", default="01", help="piece to draw  [default: 01]")
    options = parser.parse_args()
    options.output.write_bytes(figure_png(draw(options.demo, options.piece), DPI))


if __name__ == "__main__":
    main()
