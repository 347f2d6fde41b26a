"""Recordings as overlapping blocks for an encoder whose output depends on neighbouring frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from musiclora.audio.files.sound import Sound
from musiclora.backends.base import Codec

# Of one pass over a recording in memory: 20 s at 25 frames a second. The margin exceeds the encoder's receptive field
# (7 frames for Stable Audio's codec), so that blocks equal one long pass up to rounding.
MEMORY_BLOCK_FRAMES, MARGIN_FRAMES = 512, 32


def stream_blocks(
    path: Path, codec: Codec, block_frames: int, margin_frames: int
) -> Iterator[tuple[int, int, np.ndarray, int]]:
    """Stream a recording as overlapping blocks on the grid of frames, each with its margins.

    Args:
        path: the recording.
        codec: whose rate, channels and hop are used.
        block_frames: frames that a block adds.
        margin_frames: context on both sides, where the recording has it.

    Yields:
        Frames to drop at the front, frames to keep, float32 audio [channels, n], and the number of samples read so far.
        After the last block that is the recording's length. A rest shorter than a frame belongs to no frame.
    """
    hop, start, base, held = codec.hop, 0, 0, np.zeros((0, codec.audio_channels), np.float32)  # base: where held begins
    with Sound(path) as sound:
        parts: list[np.ndarray] = []
        waiting = 0
        for block in sound.stream(codec.sample_rate, codec.audio_channels):
            parts.append(block)
            waiting += len(block)
            while base + len(held) + waiting >= (start + block_frames + margin_frames) * hop:
                held, parts, waiting = np.concatenate([held, *parts]), [], 0
                end = (start + block_frames + margin_frames) * hop - base
                yield start - base // hop, block_frames, np.ascontiguousarray(held[:end].T), base + end
                start += block_frames
                drop = max(0, start - margin_frames) * hop - base
                held, base = held[drop:], base + drop
        held = np.concatenate([held, *parts])
    total = base + len(held)
    while start < total // hop:
        count = min(block_frames, total // hop - start)
        yield start - base // hop, count, np.ascontiguousarray(held.T), total
        start += count
        drop = max(0, start - margin_frames) * hop - base
        held, base = held[drop:], base + drop


def encode_blocks(sound: np.ndarray, codec: Codec, gain: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Encode a recording in memory block by block, so that a pass does not grow with its length.

    Args:
        sound: float32 [channels, N] at the codec's rate.
        codec: encodes it.
        gain: factor of the sound.

    Returns:
        The posterior's mean and scale, float32 [T, C]; T = floor(N / hop).
    """
    hop, total = codec.hop, sound.shape[1] // codec.hop
    if total <= MEMORY_BLOCK_FRAMES + MARGIN_FRAMES:
        mean, scale = codec.encode(sound[None] * np.float32(gain))
        return mean[0], scale[0]
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for start in range(0, total, MEMORY_BLOCK_FRAMES):
        end = min(total, start + MEMORY_BLOCK_FRAMES)
        first, last = max(0, start - MARGIN_FRAMES), min(total, end + MARGIN_FRAMES)
        block = sound[None, :, first * hop : sound.shape[1] if last == total else last * hop]
        for part, found in zip(parts, codec.encode(block * np.float32(gain)), strict=True):
            part.append(found[0, start - first : end - first])
    return np.concatenate(parts[0]), np.concatenate(parts[1])
