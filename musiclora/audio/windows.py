"""Windows of recordings as flow batches: random for training, fixed for held-out scores."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from musiclora.backends.base import Arrays
from musiclora.training.lazy_batches import LazyBatches

PASS_FRAMES = 4096  # frames of one pass of the network without gradient
MIN_FRAMES = 16  # shortest recording and shortest piece, 0.75 s of DiffRhythm's
# Windows of a held-out recording, and times of each, stratified over their distribution.
WINDOWS, TIMES = 4, 4
_SCORE_KEY = 20_250_301  # random key of held-out windows, the same for every run


@dataclass(frozen=True)
class Recording:
    """Latents of a recording, or of a segment cut from one.

    Attributes:
        name: for messages.
        source: file it was cut from; segments of one source belong together.
        checksum: of the sound, hexadecimal.
        latents: float32 [T, C].
        conditions: other arrays of the latents folder, by name, as the model's architecture defines them.
    """

    name: str
    source: str
    checksum: str
    latents: np.ndarray
    conditions: Arrays = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Length T."""
        return len(self.latents)

    @property
    def fingerprint(self) -> str:
        """Hash by which `evaluate` tells a recording that was trained on."""
        return self.checksum[:16]

    @property
    def key(self) -> int:
        """Random key from the content: the CRC-32 of the checksum."""
        return zlib.crc32(self.checksum.encode())


@dataclass(frozen=True)
class Window:
    """Frames of one recording at one time of the flow, and the random key of its noise."""

    recording: Recording
    start: int
    frames: int
    time: float
    noise: tuple[int, ...]


class BatchForm(Protocol):
    """Form of an architecture's flow batches: window length, times, conditions and their dropout.

    Attributes:
        length: longest window in frames.
    """

    @property
    def length(self) -> int: ...

    def draw_times(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw training times in [0, 1], from noise (0) to data (1), float64 [count]."""

    def time_at(self, share: float) -> float:
        """Return the time below which this share of the training times lies, for a share in (0, 1)."""

    def drop_conditions(self, rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        """Draw the flags of dropped conditions for a training batch of a number of rows."""

    def window_conditions(self, windows: Sequence[Window], frames: int) -> dict[str, np.ndarray]:
        """Build the conditions of windows padded to a number of frames."""


def make_batch(windows: Sequence[Window], form: BatchForm) -> dict[str, np.ndarray]:
    """Build a flow batch; shorter windows are padded with zeros, and padding is not scored."""
    longest, channels = max(w.frames for w in windows), windows[0].recording.latents.shape[1]
    shape = (len(windows), longest, channels)
    batch = {
        "latents": np.zeros(shape, np.float32),
        "noise": np.stack([_draw_noise(w.noise, longest, channels) for w in windows]),
        "time": np.array([w.time for w in windows], np.float32),
        "valid": np.arange(longest) < np.array([[w.frames] for w in windows]),
    }
    for row, w in enumerate(windows):
        batch["latents"][row, : w.frames] = w.recording.latents[w.start : w.start + w.frames]
    return {**batch, **form.window_conditions(windows, longest)}


def _draw_noise(key: tuple[int, ...], frames: int, channels: int) -> np.ndarray:
    # Drawn row by row, so that the noise of a frame does not depend on the padding.
    return np.random.default_rng(key).standard_normal((frames, channels), np.float32)


def pieces_of(frames: int, length: int) -> int:
    """Count the windows that cover a recording; an epoch draws as many."""
    return max(1, math.ceil(frames / length))


class WindowEpochs:
    """Training epochs: as many windows of each recording as cover it, or as are drawn, at random places and times."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        form: BatchForm,
        rows: int,
        seed: int,
        draw_counts: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        """Take the recordings.

        Args:
            recordings: of the training split.
            form: of the batches.
            rows: windows of a batch; the last one may have fewer.
            seed: random key of places, times, noise, condition dropout and order.
            draw_counts: gives the windows of each recording for an epoch; None takes as many as cover it.
        """
        self._draw_counts = draw_counts
        self._recordings, self._form, self._rows, self._seed = recordings, form, rows, seed

    def batches(self, epoch: int) -> LazyBatches:
        """Build the batches of one epoch, determined by its number."""
        covering = [pieces_of(r.frames, self._form.length) for r in self._recordings]
        counts = self._draw_counts(epoch) if self._draw_counts else covering
        windows = [w for number, count in enumerate(counts) for w in self._draw_windows(number, epoch, count)]
        rng = np.random.default_rng([self._seed, epoch, 1])
        # Bucket windows by length to reduce padding; windows of equal length are in random order.
        order = sorted(rng.permutation(len(windows)).tolist(), key=lambda i: -windows[i].frames)
        groups = [order[i : i + self._rows] for i in range(0, len(order), self._rows)]
        groups = [groups[i] for i in rng.permutation(len(groups))]
        return LazyBatches([self._batch_maker([windows[i] for i in group], epoch, n) for n, group in enumerate(groups)])

    def _draw_windows(self, number: int, epoch: int, count: int) -> list[Window]:
        """Draw the windows of one recording: one place in each equal part of it, one time each."""
        recording, length = self._recordings[number], self._form.length
        rng = np.random.default_rng([self._seed, epoch, 2, recording.key, number])
        room = max(0, recording.frames - length)
        starts = np.floor((np.arange(count) + rng.random(count)) / max(1, count) * (room + 1)).astype(int)
        times = self._form.draw_times(rng, count)
        frames = min(length, recording.frames)
        return [
            Window(recording, int(start), frames, float(time), (self._seed, epoch, 3, recording.key, number, k))
            for k, (start, time) in enumerate(zip(starts, times, strict=True))
        ]

    def _batch_maker(self, windows: list[Window], epoch: int, number: int) -> Callable[[], Arrays]:
        rng = np.random.default_rng([self._seed, epoch, 4, number])
        drops = self._form.drop_conditions(rng, len(windows))
        return lambda: {**make_batch(windows, self._form), **drops}


def fixed_windows(recording: Recording, form: BatchForm, most: int = WINDOWS) -> list[Window]:
    """Choose the windows of a held-out recording: evenly spaced, each at several times, the same for every run.

    Places depend on the length alone, times and noise on the recording's content too. A window's times are stratified
    over the training distribution: equal shares, shifted together by one draw.

    Args:
        recording: of any length.
        form: gives the longest window and the distribution of the times.
        most: largest number of places.
    """
    frames = min(form.length, recording.frames)
    count = min(most, pieces_of(recording.frames, form.length))
    starts = np.linspace(0, recording.frames - frames, count).round().astype(int)
    windows = []
    for place, start in enumerate(starts.tolist()):
        shift = np.random.default_rng([_SCORE_KEY, recording.key, place]).random()
        for k in range(TIMES):
            share = (k + 0.02 + 0.96 * shift) / TIMES  # excludes 0 and 1, where a distribution may be unbounded
            windows.append(Window(recording, start, frames, form.time_at(share), (_SCORE_KEY, recording.key, place, k)))
    return windows


def fixed_batches(recordings: Sequence[Recording], form: BatchForm, rows: int, most: int = WINDOWS) -> LazyBatches:
    """Build batches of fixed windows without padding and without condition dropout.

    Attention sees all frames, so that padding would make a window's loss depend on its batch.

    Args:
        recordings: scored ones.
        form: of the batches.
        rows: windows of a batch.
        most: largest number of places in a recording.
    """
    windows = [w for recording in recordings for w in fixed_windows(recording, form, most)]
    return _batches_of_alike(windows, form, rows)


def batches_by_quarter(recordings: Sequence[Recording], form: BatchForm, rows: int) -> list[LazyBatches]:
    """Build the batches of `fixed_batches` for each quarter of the training times, from noise to data."""
    windows = [w for recording in recordings for w in fixed_windows(recording, form)]
    return [_batches_of_alike([w for w in windows if w.noise[-1] == k], form, rows) for k in range(TIMES)]


def _batches_of_alike(windows: Sequence[Window], form: BatchForm, rows: int) -> LazyBatches:
    """Build batches of windows of equal length."""
    by_length: dict[int, list[Window]] = {}
    for window in windows:
        by_length.setdefault(window.frames, []).append(window)
    groups = [part[i : i + rows] for part in by_length.values() for i in range(0, len(part), rows)]
    return LazyBatches([partial(make_batch, group, form) for group in groups])
