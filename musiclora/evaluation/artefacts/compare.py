"""Artefacts of generated recordings against those of the reference recordings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from musiclora.errors import join_problems
from musiclora.evaluation.artefacts.expected import LEAST_RECORDINGS, MEASURES, Expected, Measure, expect_range
from musiclora.evaluation.artefacts.measures import HIGH_HERTZ, Artefacts

GENERATED, REFERENCE, BASELINE = "generated", "reference", "baseline"


@dataclass(frozen=True)
class MeasuredFile:
    """Artefacts of one file.

    Attributes:
        name: of the file.
        source: the recording that it was cut from, or itself.
        found: its artefacts.
    """

    name: str
    source: str
    found: Artefacts

    def value(self, measure: Measure) -> float | None:
        """Return the value of one measure; None where it was not measured."""
        value = getattr(self.found, measure.key)
        return None if value is None else float(value)


Sets = Mapping[str, Sequence[MeasuredFile]]


@dataclass(frozen=True)
class ArtefactComparison:
    """Artefacts of several sets of recordings.

    Attributes:
        sets: files of each set: `generated`, `reference`, and `baseline` if there is one.
        expected: range of each measure by key; None where too few recordings tell.
        notes: remarks for the user.
    """

    sets: Sets
    expected: Mapping[str, Expected | None]
    notes: tuple[str, ...]

    def values(self, kind: str, measure: Measure) -> list[float]:
        """Return the values of one measure in a set, without files in which it was not measured."""
        return _values(self.sets[kind], measure)

    def marks(self, file: MeasuredFile) -> dict[str, str]:
        """Return `above` or `below` by the keys of the measures in which a file lies outside the expected range."""
        places = {}
        for measure in MEASURES:
            value, expected = file.value(measure), self.expected[measure.key]
            if value is not None and expected and (place := expected.place(value)):
                places[measure.key] = place
        return places

    def count_outside(self, kind: str, measure: Measure) -> int:
        """Count the files of a set that lie outside the expected range of a measure."""
        return sum(measure.key in self.marks(file) for file in self.sets[kind])

    def as_json(self) -> dict[str, Any]:
        """Build the key `artefacts`: a summary of each measure, and the values of each generated file."""
        measures = {measure.key: self._summary(measure) for measure in MEASURES}
        files = [
            {"name": file.name, **dataclasses.asdict(file.found), "outside": self.marks(file)}
            for file in self.sets[GENERATED]
        ]
        return {"artefacts": {**measures, "files": files}}

    def _summary(self, measure: Measure) -> dict[str, Any]:
        expected = self.expected[measure.key]
        found: dict[str, Any] = {kind: _spread_of(files, measure) for kind, files in self.sets.items()}
        found["expected"] = [expected.low, expected.high] if expected else None
        for kind in self.sets:
            outside = expected and (expected.outside if kind == REFERENCE else self.count_outside(kind, measure))
            found[f"{kind}_outside"] = outside
        return found

    def table(self, kinds: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Return the name of each measure with its cells: every kind's median and range, and the files outside.

        Args:
            kinds: sets in the order of the columns.
        """
        return [
            (measure.title, [*(_range_text(self.sets[kind], measure) for kind in kinds), self.outside_text(measure)])
            for measure in MEASURES
        ]

    def outside_text(self, measure: Measure) -> str:
        """Format `3 of 32 above`; empty where no range is known."""
        if not self.expected[measure.key]:
            return ""
        places = [self.marks(file).get(measure.key) for file in self.sets[GENERATED]]
        counts = [f"{places.count(place)} {place}" for place in ("above", "below") if place in places]
        return f"{', '.join(counts)} of {len(places)}" if counts else f"0 of {len(places)}"

    def lines(self) -> list[str]:
        """Format the result as lines."""
        kinds = list(self.sets)
        head = f"{'artefacts':24}" + "".join(f"{f'{kind} (range)':>28}" for kind in kinds) + f"{'outside':>18}"
        rows = [
            f"{name:24}" + "".join(f"{c:>28}" for c in cells[:-1]) + f"{cells[-1]:>18}"
            for name, cells in self.table(kinds)
        ]
        said = [f"{file.name} ({text})" for file in self.sets[GENERATED] if (text := self.mark_text(file))]
        marked = [f"outside what the reference recordings show: {join_problems(said)}"] if said else []
        return [head, *(row.rstrip() for row in rows), *marked]

    def mark_text(self, file: MeasuredFile) -> str:
        """Format the marks of a file as `clicks a minute 24, above`."""
        texts = []
        for measure in MEASURES:
            place, value = self.marks(file).get(measure.key), file.value(measure)
            if place and value is not None:
                texts.append(f"{measure.title} {measure.text(value)}, {place}")
        return "; ".join(texts)


def _spread_of(files: Sequence[MeasuredFile], measure: Measure) -> dict[str, float] | None:
    """Return median, lowest and highest value of a set; None where nothing was measured."""
    values = _values(files, measure)
    if not values:
        return None
    return {"median": float(np.median(values)), "low": min(values), "high": max(values)}


def _range_text(files: Sequence[MeasuredFile], measure: Measure) -> str:
    spread = _spread_of(files, measure)
    if spread is None:
        return "not measured"
    median, low, high = (measure.text(spread[key]) for key in ("median", "low", "high"))
    return median if low == high else f"{median} ({low} to {high})"


def _values(files: Sequence[MeasuredFile], measure: Measure) -> list[float]:
    return [value for file in files if (value := file.value(measure)) is not None]


def compare_artefacts(sets: Sets) -> ArtefactComparison:
    """Compare the artefacts of generated recordings, and of a baseline's, with the reference's own.

    Args:
        sets: files of `generated`, `reference`, and `baseline` if there is one.
    """
    reference = sets[REFERENCE]
    sources = {file.source for file in reference}
    expected = {}
    for measure in MEASURES:
        known = [(value, file) for file in reference if (value := file.value(measure)) is not None]
        # Segments of a single recording stand for recordings, as they do for the distances.
        groups = [file.source if len(sources) > 1 else str(number) for number, (_, file) in enumerate(known)]
        expected[measure.key] = expect_range(measure, [value for value, _ in known], groups)
    notes = list(_rate_notes(sets))
    if not any(expected.values()):
        notes.append(
            f"no artefact is marked: it takes at least {LEAST_RECORDINGS} reference recordings to tell what is usual"
        )
    return ArtefactComparison(sets, expected, tuple(notes))


def _rate_notes(sets: Sets) -> list[str]:
    """Tell where sampling rates keep the energy above 10 kHz from being measured or compared."""
    notes = []
    for kind, files in sets.items():
        low = [file for file in files if file.found.rate <= 2 * HIGH_HERTZ]
        if low:
            said = ", ".join(f"{rate:,} Hz" for rate in sorted({file.found.rate for file in low}))
            notes.append(
                f"energy above 10 kHz is not measured in {len(low)} of {len(files)} {kind} recordings: "
                f"sampled at {said}"
            )
    rates = {kind: {file.found.rate for file in files} for kind, files in sets.items()}
    if len(set.union(*rates.values())) > 1 and not notes:
        said = "; ".join(f"{kind} {', '.join(f'{rate:,}' for rate in sorted(part))}" for kind, part in rates.items())
        notes.append(f"sampling rates in Hz differ, so that energy above 10 kHz reaches to different ends: {said}")
    return notes
