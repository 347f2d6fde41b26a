"""Copied spans of a piece: runs of similar patches along the diagonals of its copied windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musiclora.evaluation.audio_copies.features import Frames
from musiclora.evaluation.audio_copies.scan import Scanner

_LEVEL = 0.5  # of the similarity of a window's better patches (upper quartile), down to which its run goes on


@dataclass(frozen=True)
class Window:
    """Window of a piece and its partner.

    Attributes:
        score: its score.
        scanner: number of the scanner that found it.
        first: its first patch.
        patches: number of its patches.
        song: number of the recording.
        key: semitones from the piece to the recording.
        offset: row of the recording at the piece's first row.
    """

    score: float
    scanner: int
    first: int
    patches: int
    song: int
    key: int
    offset: int


@dataclass(frozen=True)
class CopiedSpan:
    """Run of similar patches.

    Attributes:
        window: the window with the best score in it.
        seconds: first and last second in the piece.
        song_seconds: the same in the recording.
        cosine: mean cosine of the patches.
    """

    window: Window
    seconds: tuple[float, float]
    song_seconds: tuple[float, float]
    cosine: float


def find_spans(piece: Frames, windows: Sequence[Window], scanners: Sequence[Scanner]) -> list[CopiedSpan]:
    """Follow windows both ways along their diagonals, as long as patches are similar.

    A window that has half of its similarity or more from the spans of better windows is left out.

    Args:
        piece: the piece.
        windows: those to follow.
        scanners: that found them.

    Returns:
        The spans, that of the best window first.
    """
    covered, spans = np.zeros(piece.patches, bool), list[CopiedSpan]()
    for window in sorted(windows, key=lambda window: -window.score):
        own = slice(window.first, window.first + window.patches)
        if covered[own].all():
            continue
        scanner = scanners[window.scanner]
        similarity, cosines = scanner.diagonal(piece, window.song, window.key, window.offset)
        if 2 * float(similarity[own][covered[own]].sum()) >= float(similarity[own].sum()) > 0:
            continue
        start, stop = _extend(similarity, own.start, own.stop)
        covered[start:stop] = True
        spans.append(_make_span(piece, scanner, window, start, stop, float(cosines[start:stop].mean())))
    return spans


def _extend(similarity: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """Trim or extend a run of patches to those above the level."""
    level = _LEVEL * float(np.quantile(similarity[start:stop], 0.75))
    above = np.concatenate([[False], similarity >= level, [False]])
    at = start + int(similarity[start:stop].argmax())
    low = at - int(np.argmin(above[at + 1 :: -1])) + 1
    high = at + int(np.argmin(above[at + 1 :]))
    inside = np.flatnonzero(similarity[start:stop] >= level)
    return min(low, start + int(inside[0])), max(high, start + int(inside[-1]) + 1)


def _make_span(piece: Frames, scanner: Scanner, window: Window, start: int, stop: int, cosine: float) -> CopiedSpan:
    hop, rate = piece.hop / piece.rate, piece.rate
    seconds = start * hop, (stop + 1) * hop  # patches overlap by half
    shift = window.offset * scanner.view.pooled / rate
    return CopiedSpan(window, seconds, (seconds[0] + shift, seconds[1] + shift), cosine)
