"""Windows of recordings as flow batches: drawn anew each epoch for training, fixed for scores."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np

from musiclora.backends.base import Arrays
from musiclora.flow import draw_times
from musiclora.training.lazy_batches import LazyBatches

# Shares of training batches without a condition: the class defaults of the original (DiffRhythm model/cfm.py).
DROPS = {"drop_audio": 0.3, "drop_style": 0.1, "drop_text": 0.1}
# A held-out recording is scored at so many windows, each at so many times, stratified over their distribution.
WINDOWS, TIMES = 4, 4
_FIXED = 20_250_301  # key of everything that is drawn once for scores, whatever a run's seed is


@dataclass(frozen=True)
class Recording:
    """One recording, or one piece cut from a recording, as latents.

    Attributes:
        name: for messages.
        source: what it was cut from; pieces of one source belong together.
        checksum: of the sound, hexadecimal.
        latents: float32 [T, C].
        style: float32 [512], or None.
        text: int32 [T], one phoneme or 0 a frame, or None for music without lyrics.
    """

    name: str
    source: str
    checksum: str
    latents: np.ndarray
    style: np.ndarray | None = None
    text: np.ndarray | None = None

    @property
    def frames(self) -> int:
        """T."""
        return len(self.latents)

    @property
    def key(self) -> int:
        """A number that stands for the content, to draw by."""
        return zlib.crc32(self.checksum.encode())


@dataclass(frozen=True)
class Form:
    """What a model's flow batches look like.

    Attributes:
        length: longest window in frames.
        max_frames: what the model can hold; durations are shares of it.
        has_duration: whether the model takes the duration.
        style: float32 [512] for every row, or None for the recordings' own.
    """

    length: int
    max_frames: int
    has_duration: bool
    style: np.ndarray | None = None


@dataclass(frozen=True)
class Window:
    """Frames of one recording at one time of the flow, and the key of its noise."""

    recording: Recording
    start: int
    frames: int
    time: float
    noise: tuple[int, ...]


def make_batch(windows: Sequence[Window], form: Form) -> dict[str, np.ndarray]:
    """A flow batch; shorter windows are filled with zeros, under noise, and not scored.

    The start is given as a share of the whole recording, the duration as a share of the longest piece.
    """
    longest, channels = max(w.frames for w in windows), windows[0].recording.latents.shape[1]
    shape = (len(windows), longest, channels)
    batch = {
        "latents": np.zeros(shape, np.float32),
        "noise": np.stack([_noise(w.noise, longest, channels) for w in windows]),
        "time": np.array([w.time for w in windows], np.float32),
        "valid": np.arange(longest) < np.array([[w.frames] for w in windows]),
        "start_time": np.array([w.start / w.recording.frames for w in windows], np.float32),
    }
    if form.has_duration:
        batch["duration"] = np.array([w.frames / form.max_frames for w in windows], np.float32)
    for row, w in enumerate(windows):
        batch["latents"][row, : w.frames] = w.recording.latents[w.start : w.start + w.frames]
    if any(w.recording.text is not None for w in windows):
        batch["text"] = np.stack([_text(w, longest) for w in windows])
    styles = [w.recording.style if form.style is None else form.style for w in windows]
    if all(style is not None for style in styles):
        batch["style"] = np.stack([np.asarray(style, np.float32) for style in styles])
    return batch


def _noise(key: tuple[int, ...], frames: int, channels: int) -> np.ndarray:
    # Row by row: the noise of a frame does not depend on how far the batch was filled up.
    return np.random.default_rng(key).standard_normal((frames, channels), np.float32)


def _text(window: Window, frames: int) -> np.ndarray:
    row = np.zeros(frames, np.int32)
    if window.recording.text is not None:
        row[: window.frames] = window.recording.text[window.start : window.start + window.frames]
    return row


def pieces_of(frames: int, length: int) -> int:
    """How many windows of an epoch a recording of so many frames gives: as many as cover it."""
    return max(1, math.ceil(frames / length))


class WindowEpochs:
    """Training batches: every recording gives as many windows as cover it, at places and times drawn each epoch."""

    def __init__(self, recordings: Sequence[Recording], form: Form, rows: int, seed: int) -> None:
        """Take the recordings.

        Args:
            recordings: what to train on.
            form: of the batches.
            rows: windows in a batch; the last one may have fewer.
            seed: key of places, times, noise, drops and order.
        """
        self._recordings, self._form, self._rows, self._seed = recordings, form, rows, seed

    def batches(self, epoch: int) -> LazyBatches:
        """Batches of one epoch; the same for the same number."""
        windows = [w for number in range(len(self._recordings)) for w in self._windows(number, epoch)]
        rng = np.random.default_rng([self._seed, epoch, 1])
        # Windows of like lengths share a batch, so that little is filled up; equal ones lie in random order.
        order = sorted(rng.permutation(len(windows)).tolist(), key=lambda i: -windows[i].frames)
        groups = [order[i : i + self._rows] for i in range(0, len(order), self._rows)]
        groups = [groups[i] for i in rng.permutation(len(groups))]
        return LazyBatches([self._maker([windows[i] for i in group], epoch, n) for n, group in enumerate(groups)])

    def _windows(self, number: int, epoch: int) -> list[Window]:
        """Windows of one recording: one place in each equal part of it, one time each."""
        recording, length = self._recordings[number], self._form.length
        rng = np.random.default_rng([self._seed, epoch, 2, recording.key, number])
        count = pieces_of(recording.frames, length)
        room = max(0, recording.frames - length)
        starts = np.floor((np.arange(count) + rng.random(count)) / count * (room + 1)).astype(int)
        times = draw_times(rng, count)
        frames = min(length, recording.frames)
        return [
            Window(recording, int(start), frames, float(time), (self._seed, epoch, 3, recording.key, number, k))
            for k, (start, time) in enumerate(zip(starts, times, strict=True))
        ]

    def _maker(self, windows: list[Window], epoch: int, number: int) -> Callable[[], Arrays]:
        draws = np.random.default_rng([self._seed, epoch, 4, number]).random(len(DROPS))
        drops = {name: np.array(draw < share) for (name, share), draw in zip(DROPS.items(), draws, strict=True)}
        return lambda: {**make_batch(windows, self._form), **drops}


def fixed_windows(recording: Recording, length: int) -> list[Window]:
    """Windows that a held-out recording is scored at, spread evenly, each at several times; always the same.

    Places depend on the length alone; times and noise on the recording's content too. A window's times lie in equal
    shares of the distribution that training draws from, shifted together by one draw.
    """
    frames = min(length, recording.frames)
    count = min(WINDOWS, pieces_of(recording.frames, length))
    starts = np.linspace(0, recording.frames - frames, count).round().astype(int)
    windows = []
    for place, start in enumerate(starts.tolist()):
        shift = np.random.default_rng([_FIXED, recording.key, place]).random()
        for k in range(TIMES):
            share = (k + 0.02 + 0.96 * shift) / TIMES  # never 0 or 1, whose normal quantiles are infinite
            time = 1 / (1 + math.exp(-NormalDist().inv_cdf(share)))
            windows.append(Window(recording, start, frames, time, (_FIXED, recording.key, place, k)))
    return windows


def fixed_batches(recordings: Sequence[Recording], form: Form, rows: int) -> LazyBatches:
    """Batches of the fixed windows of some recordings, none of them filled up and nothing dropped.

    Attention sees all frames, so a window's loss would depend on what it is batched with were any filled up.
    """
    windows = [w for recording in recordings for w in fixed_windows(recording, form.length)]
    by_length: dict[int, list[Window]] = {}
    for window in windows:
        by_length.setdefault(window.frames, []).append(window)
    groups = [part[i : i + rows] for part in by_length.values() for i in range(0, len(part), rows)]
    return LazyBatches([partial(make_batch, group, form) for group in groups])
