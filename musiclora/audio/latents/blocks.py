"""Recordings as overlapping blocks for an encoder whose output depends on neighbouring frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from musiclora.audio.files.sound import Sound
from musiclora.backends.base import Codec


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
