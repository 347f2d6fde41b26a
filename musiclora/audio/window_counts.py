"""Numbers of training windows of each recording: as many as cover it, or the same sound of every recording."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from musiclora.audio.windows import Recording, pieces_of
from musiclora.training.weighing import draw_visits, song_factors


class WindowCounts:
    """Windows that each epoch takes of each recording or segment.

    With labels a recording, with all segments cut from it, has the same expected number of frames in an epoch as every
    other. An epoch has the same number of windows whatever its number.

    Attributes:
        expected: windows of each recording or segment, float64 [n], with a whole sum.
        frames: expected frames of an epoch.
        longest: frames of the longest window.
    """

    def __init__(
        self, recordings: Sequence[Recording], length: int, seed: int, labels: Sequence[str] | None = None
    ) -> None:
        """Compute the expectations.

        Args:
            recordings: of the training split.
            length: longest window in frames.
            seed: key of the draws.
            labels: the recording that each of them is, or was cut from, to count recordings the same; None takes as
                many windows as cover each.
        """
        self._seed, self._labels = seed, labels
        frames = np.array([min(length, r.frames) for r in recordings])
        self._covering = np.array([pieces_of(r.frames, length) for r in recordings])
        self.expected = self._covering.astype(np.float64)
        if labels is not None:
            exact = self.expected * song_factors(labels, (self._covering * frames).tolist())
            self.expected = exact * (math.ceil(exact.sum() - 1e-9) / exact.sum())
        self.frames = float(self.expected @ frames)
        self.longest = int(frames.max())

    def draw(self, epoch: int) -> Sequence[int]:
        """Draw the number of windows of each recording for one epoch, determined by its number."""
        drawn = self._covering
        if self._labels is not None:
            drawn = draw_visits(self.expected, np.random.default_rng([self._seed, epoch, 5]))
        return [int(count) for count in drawn]

    def lines(self) -> list[str]:
        """Say what each recording gives, where recordings count the same."""
        if self._labels is None:
            return []
        each = self.frames / len(set(self._labels))
        return [f"--weigh songs: each recording gives about {each:,.0f} frames an epoch"]
