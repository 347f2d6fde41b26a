"""Files with given artefacts."""

from __future__ import annotations

from musiclora.evaluation.artefacts.compare import MeasuredFile
from musiclora.evaluation.artefacts.measures import Artefacts


def measured(floors, rate=44100, high=1e-3, source=None, **more):
    values = {"clicks_per_minute": 0.0, "energy_above_10khz": high, "clipped": 0.0, "silence": 0.0, **more}
    return [
        MeasuredFile(f"{i}.wav", source or f"{i}", Artefacts(rate=rate, noise_floor_db=floor, **values))
        for i, floor in enumerate(floors)
    ]
