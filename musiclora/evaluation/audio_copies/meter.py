"""Copy meter for recordings: the windows of a piece that a training recording holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from musiclora.errors import DataError
from musiclora.evaluation.audio_copies.features import FRAMES_PER_SECOND, WINDOW_FRAMES, Frames
from musiclora.evaluation.audio_copies.windows import best_windows

LEAST_RECORDINGS = 4  # for a fit
FALSE_ALARM = 0.005  # share of unseen recordings that may pass the threshold of each of the two measures
DEFAULT_THRESHOLD = 0.9  # where there are too few recordings for a fit
_HIGHEST_THRESHOLD = 0.97
_MEASURES, _KEYS = ("mel", "chroma"), 12
_EULER = 0.5772156649015329
_ONE_SIDED_95 = 1.645  # standard errors


@dataclass(frozen=True)
class AudioCopyResult:
    """Copy figures of one piece.

    Attributes:
        similarity: of its best window, -1 to 1.
        measure: 'mel', or 'chroma', which is compared in all twelve keys.
        song: name of the training recording with that window.
        seconds: first and last second of the window in the piece.
        song_seconds: the same in the recording.
        share: share of the piece inside windows over the threshold, 0 to 1.
        unseen_above: number of unseen recordings whose best window is at least as similar.
        unseen: number of unseen recordings.
    """

    similarity: float
    measure: str
    song: str
    seconds: tuple[float, float]
    song_seconds: tuple[float, float]
    share: float
    unseen_above: int
    unseen: int

    @property
    def copied(self) -> bool:
        """True where a window passes the threshold."""
        return self.share > 0

    def as_json(self) -> dict[str, Any]:
        """Build the entry for `--json`, without the file's name."""
        return {
            "copied": self.copied,
            "share": round(self.share, 4),
            "song": self.song,
            "similarity": round(self.similarity, 4),
            "measure": self.measure,
            "seconds": list(self.seconds),
            "song_seconds": list(self.song_seconds),
            "unseen_above": self.unseen_above,
            "unseen": self.unseen,
        }

    def line(self) -> str:
        """Format the figures as one line."""
        word = "copied" if self.copied else "not copied"
        rank = f"; {self.unseen_above} of {self.unseen} unseen recordings are as similar" if self.unseen else ""
        return (
            f"{word}, {self.share:.0%} in copied windows; best window {self.similarity:.2f} ({self.measure}) at "
            f"{self.seconds[0]:.1f} s, {self.song} at {self.song_seconds[0]:.1f} s{rank}"
        )


class AudioCopyMeter:
    """Finds windows that a piece shares with training recordings.

    Attributes:
        thresholds: highest similarity of a window that is no copy, for each measure.
        notes: remarks on the scale for the user.
    """

    def __init__(self, train: Sequence[Frames], held_out: Sequence[Frames] = ()) -> None:
        """Calibrate on held-out recordings, or on each training recording against the others.

        Raises:
            DataError: there is no training recording.
        """
        if not train:
            raise DataError("there is no training recording to find copies of")
        self._train = list(train)
        stacked = np.concatenate([song.mel for song in train])
        self._mean, self._scale = stacked.mean(axis=0), np.maximum(stacked.std(axis=0), 1e-3)
        if len(held_out) >= LEAST_RECORDINGS or len({song.source for song in train}) == 1:
            measured = [self._scan(piece) for piece in held_out]
            scale = f"{len(measured)} held-out recordings"
        else:
            measured = [self._scan(song, song.source) for song in train]
            measured += [self._scan(piece) for piece in held_out]
            scale = f"{len(train)} training recordings against each other"
            scale += f" and {len(held_out)} held-out ones" if held_out else ""
        self._unseen = {name: [float(found[name][0].max()) for found in measured] for name in _MEASURES}
        self.thresholds = {name: fit_threshold(self._unseen[name]) for name in _MEASURES}
        fitted = len(measured) >= LEAST_RECORDINGS
        few = f"; fewer than {LEAST_RECORDINGS} are no scale: the threshold is {DEFAULT_THRESHOLD}"
        self.notes = (f"scale of copies: {scale}{'' if fitted else few}",)

    def measure(self, piece: Frames) -> AudioCopyResult:
        """Measure a piece."""
        found = self._scan(piece)
        over = {name: scores - self.thresholds[name] for name, (scores, _, _) in found.items()}
        name = max(_MEASURES, key=lambda key: float(over[key].max()))
        scores, songs, places = found[name]
        at = int(scores.argmax())
        covered = np.zeros(len(piece), bool)
        for start in np.flatnonzero(np.maximum(over["mel"], over["chroma"]) > 0):
            covered[start : start + WINDOW_FRAMES] = True
        unseen = self._unseen[name]
        return AudioCopyResult(
            float(scores[at]),
            name,
            self._train[songs[at]].name,
            _span(at),
            _span(int(places[at])),
            float(covered.mean()),
            sum(value >= float(scores[at]) for value in unseen),
            len(unseen),
        )

    def _scan(self, piece: Frames, leave_out: str = "") -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return for each measure the similarity, recording and place of each window's best partner.

        Args:
            piece: the recording to look for.
            leave_out: source whose recordings do not count, such as the piece's own.
        """
        result = {}
        for name in _MEASURES:
            rows = self._rows(piece, name)
            count = len(piece) - WINDOW_FRAMES + 1
            best = np.full(count, -1.0, np.float32)
            songs, places = np.zeros(count, np.int64), np.zeros(count, np.int64)
            for number, song in enumerate(self._train):
                if leave_out and song.source == leave_out:
                    continue
                other = self._rows(song, name)
                for key in range(_KEYS if name == "chroma" else 1):
                    scores, where = best_windows(np.roll(rows, key, axis=1), other)
                    better = scores > best
                    best[better], songs[better], places[better] = scores[better], number, where[better]
            result[name] = (best, songs, places)
        return result

    def _rows(self, piece: Frames, name: str) -> np.ndarray:
        """Return the features of a measure, mel bands normalised by the training recordings, float32 [T, B]."""
        if name == "chroma":
            return piece.chroma
        rows: np.ndarray = ((piece.mel - self._mean) / self._scale).astype(np.float32)
        return rows


def fit_threshold(best: Sequence[float]) -> float:
    """Fit the similarity that one unseen recording in 200 passes.

    The best of many windows follows a Gumbel distribution, fitted by moments to the Fisher transform (atanh) of the
    similarities, which is not bounded by 1. A fit to few recordings is uncertain: the upper 95 % confidence limit of
    the quantile is taken.

    Source: standard error of a Gumbel quantile fitted by moments: Kite 1975.

    Args:
        best: similarity of the best window of each unseen recording.
    """
    if len(best) < LEAST_RECORDINGS:
        return DEFAULT_THRESHOLD
    values = np.arctanh(np.clip(best, -0.999, 0.999))
    spread = max(float(values.std(ddof=1)), 0.025)
    factor = -math.sqrt(6) / math.pi * (_EULER + math.log(-math.log(1 - FALSE_ALARM)))
    error = spread * math.sqrt((1 + 1.1396 * factor + 1.1 * factor**2) / len(best))
    quantile = math.tanh(float(values.mean()) + factor * spread + _ONE_SIDED_95 * error)
    return min(quantile, _HIGHEST_THRESHOLD)


def _span(frame: int) -> tuple[float, float]:
    """Convert the first frame of a window to its first and last second."""
    return round(frame / FRAMES_PER_SECOND, 2), round((frame + WINDOW_FRAMES) / FRAMES_PER_SECOND, 2)
