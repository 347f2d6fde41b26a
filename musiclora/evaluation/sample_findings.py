"""Findings on the samples of a trained model: copies and style."""

from __future__ import annotations

from dataclasses import dataclass

from musiclora.evaluation.copy_figures import CopyFigures
from musiclora.evaluation.style.card import StyleCard


@dataclass(frozen=True)
class SampleFindings:
    """What was found out about samples.

    Attributes:
        copies: what they copy of the training songs; None where that cannot be measured.
        style: how near they and the base's are to the artist's songs; None where that cannot be measured.
    """

    copies: CopyFigures | None = None
    style: StyleCard | None = None
