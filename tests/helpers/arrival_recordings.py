"""Recordings of the original arrival-time code (tests/golden/anticipation)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "golden" / "anticipation"
MIDI = FOLDER / "midi"
NAMES = sorted(path.stem for path in MIDI.glob("*.mid"))


def recorded(name: str, what: str) -> np.ndarray:
    """Return one array of a piece: `events`, `padded`, `notes_back` or `instruments`."""
    with np.load(FOLDER / "files.npz") as file:
        return file[f"{name}/{what}"]
