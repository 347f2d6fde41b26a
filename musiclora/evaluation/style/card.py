"""Style card: overlap of generated songs with an artist's, feature by feature, with the artist's own songs as scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from musiclora.errors import DataError
from musiclora.evaluation.audio_distances import Spread
from musiclora.evaluation.style.features import Feature

_KEYS = ("overlap", "kl", "spread")


@dataclass(frozen=True)
class SetScore:
    """Scores of one set of pieces against the reference, for one feature or as the mean of all.

    Attributes:
        overlap: overlapping area, 0..1, 1 is alike.
        kl: Kullback-Leibler divergence in nats, 0 is alike.
        spread: mean distance within the set by that within the reference: 1 is as varied, near 0 always the same; None
            where one of them has no distances.
    """

    overlap: Spread
    kl: Spread
    spread: Spread | None

    def as_json(self) -> dict[str, Any]:
        """Build the keys `overlap`, `kl`, `spread` and their intervals."""
        found: dict[str, Any] = {}
        for key in _KEYS:
            part: Spread | None = getattr(self, key)
            found[key] = part.value if part else None
            found[f"{key}_interval"] = [part.low, part.high] if part else None
        return found


@dataclass(frozen=True)
class FeatureResult:
    """Scores of one feature.

    Attributes:
        feature: which one.
        generated: score of the generated pieces.
        baseline: of the baseline's; None without.
        real: of other songs of the artist; None where there are too few.
        values: of each set by name (`reference`, `generated`, `baseline`) the mean histogram of its pieces, float64
            [bins]; of a feature that is one number those of the pieces, float64 [n].
    """

    feature: Feature
    generated: SetScore
    baseline: SetScore | None
    real: SetScore | None
    values: dict[str, np.ndarray]

    def as_json(self) -> dict[str, Any]:
        """Build the feature's object."""
        bins = {"bins": list(self.feature.labels)} if self.feature.labels else {}
        return {
            **self.generated.as_json(),
            "baseline": self.baseline.as_json() if self.baseline else None,
            "real_vs_real": self.real.as_json() if self.real else None,
            "distributions": {**bins, **{name: values.tolist() for name, values in self.values.items()}},
        }


@dataclass(frozen=True)
class StyleCard:
    """Comparison of generated pieces with an artist's songs.

    Attributes:
        rows: the features that could be measured.
        generated, baseline, real: means over the features.
        gain: mean overlap of the generated pieces less that of the baseline; None without one.
        counts: number of pieces by set: `generated`, `reference`, `baseline`, `rest`.
        quarters: length of the excerpts in quarter notes.
        notes: remarks for the user.
    """

    rows: tuple[FeatureResult, ...]
    generated: SetScore
    baseline: SetScore | None
    real: SetScore | None
    gain: Spread | None
    counts: dict[str, int]
    quarters: float
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Build the key `style`."""
        gain = {"value": self.gain.value, "low": self.gain.low, "high": self.gain.high} if self.gain else None
        return {
            "style": {
                **self.generated.as_json(),
                "baseline": self.baseline.as_json() if self.baseline else None,
                "real_vs_real": self.real.as_json() if self.real else None,
                "gain": gain,
                "pieces": self.counts,
                "excerpt_quarters": self.quarters,
                "features": {row.feature.key: row.as_json() for row in self.rows},
            }
        }

    def lines(self) -> list[str]:
        """Format the overlaps as a table, and the verdict."""
        heads = ["overlap", "95 % interval", *(["baseline"] if self.baseline else [])]
        heads += ["artist's own", "range"] if self.real else []
        widths = [9 if head in ("overlap", "baseline") else 14 for head in heads]
        table = [self.describe(), "".join([f"{'':22}", *(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True))])]
        for name, scores in self.table():
            cells = [f"{scores[0].overlap.value:.2f}", _range(scores[0].overlap)]
            cells += [f"{scores[1].overlap.value:.2f}"] if scores[1] else []
            cells += [f"{scores[2].overlap.value:.2f}", _range(scores[2].overlap)] if scores[2] else []
            table.append("".join([f"{name:22}", *(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))]))
        return [*table, *self.verdict()]

    def table(self) -> list[tuple[str, tuple[SetScore, SetScore | None, SetScore | None]]]:
        """List the scores of each feature and their mean: generated, baseline, real."""
        rows = [(row.feature.title, (row.generated, row.baseline, row.real)) for row in self.rows]
        return [*rows, ("mean", (self.generated, self.baseline, self.real))]

    def describe(self) -> str:
        """Say what is compared."""
        made, real = self.counts["generated"], self.counts["reference"]
        base = f", {self.counts['baseline']} of the baseline" if "baseline" in self.counts else ""
        return (
            f"style: {made} pieces{base} against {real} songs, in excerpts of {self.quarters:.0f} quarter notes; "
            "1 is alike"
        )

    def line(self) -> str:
        """Format the mean overlap as one line."""
        own = self.generated.overlap
        text = f"style: mean overlap {own.value:.2f} (95 % {_range(own)}) of {self.counts['generated']} samples"
        text += f"; base {self.baseline.overlap.value:.2f}" if self.baseline else ""
        return f"{text}; the artist's own songs {_range(self.real.overlap)}" if self.real else text

    def verdict(self) -> list[str]:
        """Say whether the pieces are nearer than the baseline's, and whether they can be told from the artist's."""
        lines = []
        if self.gain:
            numbers = f"{self.gain.value:+.2f} (95 % interval {self.gain.low:+.2f} to {self.gain.high:+.2f})"
            if self.gain.low > 0:
                lines.append(f"nearer to the artist than the baseline: mean overlap {numbers}")
            elif self.gain.high < 0:
                lines.append(f"farther from the artist than the baseline: mean overlap {numbers}")
            else:
                lines.append(f"not nearer than the baseline beyond chance: mean overlap {numbers}")
        if self.real:
            inside = self.generated.overlap.value >= self.real.overlap.low
            words = "as near as" if inside else "farther than"
            lines.append(f"{words} the artist's own songs are to each other ({_range(self.real.overlap)})")
        return lines


def _range(part: Spread) -> str:
    return f"{part.low:.2f} to {part.high:.2f}"


def check_count(found: int, least: int, option: str) -> None:
    """Raise DataError where a set has fewer pieces with notes than a comparison takes."""
    if found < least:
        pieces = "piece has" if found == 1 else "pieces have"
        raise DataError(f"{option}: the style card takes at least {least} pieces with notes; {found} {pieces} any")
