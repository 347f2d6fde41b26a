"""Timbre references of ACE-Step: 30 seconds from the front, the middle and the back of a recording, as latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from musiclora.audio.files.sound import read_recording
from musiclora.audio.files.writing import SILENT_PEAK
from musiclora.audio.init_audio import draw_latents
from musiclora.backends.base import Codec
from musiclora.errors import DataError

_SEGMENT_SECONDS, _SEGMENTS = 10, 3
_LEAST_SECONDS = 1.0  # a shorter one would be repeated more than thirty times


def timbre_latents(path: Path, codec: Codec, seed: int) -> np.ndarray:
    """Encode a timbre reference, float32 [F, C] of 30 seconds.

    Args:
        path: the recording; one below 30 seconds is repeated.
        codec: encodes it.
        seed: of the draw from the posterior.

    Raises:
        DataError: it cannot be read, is too short, or is silent.
    """
    sound = read_recording(path, codec.sample_rate, codec.audio_channels)
    seconds = sound.shape[1] / codec.sample_rate
    if seconds < _LEAST_SECONDS:
        raise DataError(f"--reference {path}: {seconds:.2f} s are too short for a timbre; give {_LEAST_SECONDS:g} s")
    if np.abs(sound).max() < SILENT_PEAK:
        raise DataError(f"--reference {path}: is silent, so it has no timbre")
    return draw_latents(1.0, choose_segments(sound, codec.sample_rate), codec, [seed, 2, 1])


def choose_segments(sound: np.ndarray, rate: int) -> np.ndarray:
    """Cut three segments of 10 seconds from a recording, float32 [channels, 30 * rate].

    They begin at the front, after the first third, and 10 seconds before the end.

    Args:
        sound: float32 [channels, N].
        rate: samples a second.

    Source: diffusers' AceStepPipeline.prepare_reference_audio_latents.
    """
    segment = _SEGMENT_SECONDS * rate
    if sound.shape[1] < _SEGMENTS * segment:
        sound = np.tile(sound, (1, -(-_SEGMENTS * segment // sound.shape[1])))
    total = sound.shape[1]
    starts = (0, total // _SEGMENTS, total - segment)
    return np.concatenate([sound[:, start : start + segment] for start in starts], axis=1)
