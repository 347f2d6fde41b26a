"""Copy meter for recordings: the spans of a piece that a training recording holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from musiclora.errors import DataError
from musiclora.evaluation.audio_copies.calibration import (
    LEAST_RECORDINGS,
    Calibration,
    Cell,
    choose_excerpts,
    fit_calibration,
)
from musiclora.evaluation.audio_copies.features import Frames
from musiclora.evaluation.audio_copies.scan import BestWindows, Scanner
from musiclora.evaluation.audio_copies.spans import CopiedSpan, Window, find_spans


@dataclass(frozen=True)
class AudioCopyResult:
    """Copy figures of one piece.

    Attributes:
        similarity: score of its best window, see `calibration.Calibration`.
        threshold: highest score of a piece that is no copy.
        share: share of the piece inside copied spans, 0 to 1.
        spans: copied spans, or the best window's where nothing is copied; the best first.
        measure: view of the best window.
        song: name of its training recording.
        unseen_above: number of unseen excerpts whose score is at least as high.
        unseen: number of unseen excerpts.
    """

    similarity: float
    threshold: float
    share: float
    spans: tuple[CopiedSpan, ...]
    measure: str
    song: str
    unseen_above: int
    unseen: int

    @property
    def copied(self) -> bool:
        """True where the score passes the threshold."""
        return self.similarity > self.threshold

    @property
    def copied_spans(self) -> tuple[tuple[float, float], ...]:
        """First and last second of the copied spans in the piece."""
        return tuple(sorted(span.seconds for span in self.spans)) if self.copied else ()

    def as_json(self) -> dict[str, Any]:
        """Build the entry for `--json`, without the file's name."""
        span = self.spans[0]
        return {
            "copied": self.copied,
            "share": round(self.share, 4),
            "song": self.song,
            "similarity": round(self.similarity, 2),
            "seconds": [round(second, 1) for second in span.seconds],
            "song_seconds": [round(second, 1) for second in span.song_seconds],
            "measure": self.measure,
            "semitones": -span.window.key,
            "cosine": round(span.cosine, 3),
            "unseen": {"excerpts": self.unseen, "as_similar": self.unseen_above},
        }

    def line(self) -> str:
        """Format the figures as one line."""
        span = self.spans[0]
        where = f"{format_span(span.seconds)} like {format_span(span.song_seconds)} of {self.song}"
        if span.window.key:
            steps = abs(span.window.key)
            where += f", {steps} semitone{'s' * (steps > 1)} {'lower' if span.window.key > 0 else 'higher'}"
        rank = f"; {self.unseen_above} of {self.unseen} unseen excerpts are as similar" if self.unseen else ""
        words = f"copied: {self.share:.0%} of it, {where}" if self.copied else f"not copied; most similar {where}"
        return f"{words}; similarity {self.similarity:.1f}, copied above {self.threshold:.1f}{rank}"


def format_span(seconds: tuple[float, float]) -> str:
    """Format '3.1 to 7.2 s'."""
    return f"{max(seconds[0], 0.0):.1f} to {seconds[1]:.1f} s"


class AudioCopyMeter:
    """Finds spans that a piece shares with training recordings.

    Attributes:
        calibration: similarity of recordings that are no copies.
        notes: remarks on the scale for the user.
    """

    def __init__(
        self, train: Sequence[Frames], held_out: Sequence[Frames] = (), piece_seconds: float | None = None
    ) -> None:
        """Calibrate on held-out recordings, or on each training recording against the others.

        Args:
            train: training recordings.
            held_out: others by the same artist, for the scale.
            piece_seconds: length of the pieces that will be measured; None means a minute or more.

        Raises:
            DataError: there is no training recording.
        """
        if not train:
            raise DataError("there is no training recording to find copies of")
        self._train = list(train)
        self._scanners = [Scanner(view, self._train) for view in train[0].rows]
        sources = {song.source for song in train}
        own = [] if len({piece.source for piece in held_out}) >= LEAST_RECORDINGS or len(sources) == 1 else list(train)
        excerpts = [(piece, piece.source) for piece in choose_excerpts(own, piece_seconds)] if own else []
        excerpts += [(piece, "") for piece in choose_excerpts(held_out, piece_seconds)] if held_out else []
        best = [{cell: float(found.scores.max()) for cell, found in self._scan(*row).items()} for row in excerpts]
        recordings = len({piece.source for piece, _ in excerpts})
        seconds = float(np.mean([piece.seconds for piece, _ in excerpts])) if excerpts else 0.0
        self.calibration: Calibration = fit_calibration(best, seconds, recordings)
        scale = f"{len(sources)} training recordings against each other" if own else ""
        scale += f"{' and ' if own else ''}{len(held_out)} held-out recordings" if held_out or not own else ""
        few = f"; fewer than {LEAST_RECORDINGS} are no scale: the threshold is {self.threshold:g}"
        self.notes = (f"scale of copies: {scale}{few if recordings < LEAST_RECORDINGS else ''}",)

    @property
    def threshold(self) -> float:
        """Highest score of a piece that is no copy."""
        return self.calibration.threshold

    def measure(self, piece: Frames) -> AudioCopyResult:
        """Measure a piece of at least `features.LEAST_PATCHES` patches."""
        found, limit = self._scan(piece, ""), self.threshold
        scores = {cell: self.calibration.scores_of(windows, cell, piece.seconds) for cell, windows in found.items()}
        top = max(scores, key=lambda cell: float(scores[cell].max()))
        similarity = float(scores[top].max())
        level = min(limit, similarity - 1e-9)
        windows = [
            self._window(found[cell], cell, int(at), float(scores[cell][at]))
            for cell in scores
            for at in np.flatnonzero(scores[cell] > level)
        ]
        spans = find_spans(piece, windows, self._scanners)
        covered = np.zeros(piece.length, bool)
        for span in spans if similarity > limit else ():
            covered[slice(*(round(second * piece.rate) for second in span.seconds))] = True
        unseen = self.calibration.scores
        return AudioCopyResult(
            similarity,
            limit,
            float(covered.mean()),
            tuple(spans),
            top[0],
            self._train[spans[0].window.song].name,
            sum(score >= similarity for score in unseen),
            len(unseen),
        )

    def _scan(self, piece: Frames, leave_out: str) -> dict[Cell, BestWindows]:
        return {
            (scanner.view.name, span): windows
            for scanner in self._scanners
            for span, windows in scanner.scan(piece, leave_out).items()
        }

    def _window(self, found: BestWindows, cell: Cell, first: int, score: float) -> Window:
        number = next(n for n, scanner in enumerate(self._scanners) if scanner.view.name == cell[0])
        offset = int(found.offsets[first]) - first * self._scanners[number].hop
        return Window(score, number, first, cell[1], int(found.songs[first]), int(found.keys[first]), offset)
