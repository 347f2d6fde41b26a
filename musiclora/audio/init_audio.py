"""Recording to continue or to repaint: its latents as the known frames of a new piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclora.audio.files.sound import read_recording
from musiclora.audio.latents.posterior import draw_posterior
from musiclora.backends.base import Codec
from musiclora.errors import ConfigError

_REFERENCE_PEAK = 0.5012  # -6 dB of full scale, as in DiffRhythm's inference code


@dataclass(frozen=True)
class Reference:
    """Known latents of a new piece, and the mask of the frames to generate.

    Attributes:
        known: float32 [T, C], zeros where the recording has no frames.
        mask: bool [T], True where the frame is generated.
    """

    known: np.ndarray
    mask: np.ndarray

    def rows(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Repeat both for equal rows: [B, T, C] and [B, T]."""
        return np.tile(self.known, (count, 1, 1)), np.tile(self.mask, (count, 1))


def reference_of(
    latents: np.ndarray, repaint: Sequence[tuple[float, float]], pace: float, frames: int | None, longest: int
) -> tuple[Reference, list[str]]:
    """Divide a recording's latents into known frames and frames to generate.

    Args:
        latents: float32 [T, C].
        repaint: (start, end) in seconds, -1 for the beginning or the end; empty continues the recording.
        pace: latent frames a second.
        frames: length of the new piece; None is the recording's length for repainting, else `longest`.
        longest: longest piece of the model in frames.

    Returns:
        The reference, and notes for the user. Frames after the recording's end are always generated.

    Raises:
        ConfigError: no frame or every frame would be generated, or a span lies outside.
    """
    notes = []
    if frames is None:
        frames = min(len(latents), longest) if repaint else longest
    if len(latents) > frames:
        if not repaint:
            raise ConfigError(
                f"--init-audio: is {len(latents) / pace:.1f} s long, and {frames / pace:.1f} s are to be made: there "
                "is nothing to continue; give more --seconds, --repaint, or a shorter piece (musiclora cut)"
            )
        notes.append(f"--init-audio: {len(latents) / pace:.1f} s are cut to {frames / pace:.1f} s")
    known = np.zeros((frames, latents.shape[1]), np.float32)
    kept = min(frames, len(latents))
    known[:kept] = latents[:kept]
    mask = np.arange(frames) >= kept
    for start, end in repaint:
        first, last = _span_frames(start, end, pace, frames)
        mask[first:last] = True
    if not mask.any() or mask.all():
        what = "nothing would be generated" if not mask.any() else "nothing of the recording would be kept"
        raise ConfigError(f"--init-audio: {what}; give --repaint START END inside it, or more --seconds than it has")
    return Reference(known, mask), notes


def _span_frames(start: float, end: float, pace: float, frames: int) -> tuple[int, int]:
    """Convert a span in seconds to frames.

    Raises:
        ConfigError: it is empty or lies outside.
    """
    first = 0 if start == -1 else int(start * pace)
    last = frames if end == -1 else int(end * pace)
    if not 0 <= first < last or first >= frames:
        raise ConfigError(
            f"--repaint {start:g} {end:g}: no part of a recording of {frames / pace:.1f} s; give a start before an "
            "end, -1 for its beginning or end"
        )
    return first, min(last, frames)


def read_reference(
    path: Path, repaint: Sequence[tuple[float, float]], codec: Codec, frames: int | None, longest: int, seed: int
) -> tuple[Reference, list[str]]:
    """Read a recording, scale its peak to -6 dB, encode it and draw from the posterior.

    Raises:
        MusicLoraError: the file cannot be read, or does not fit; see `reference_of`.
    """
    audio = read_recording(path, codec.sample_rate, codec.audio_channels)
    peak = float(np.abs(audio).max(initial=0.0))
    audio = audio * np.float32(_REFERENCE_PEAK / peak) if peak else audio
    mean, scale = (part[0] for part in codec.encode(audio[None]))
    # The key is the seed's alone, so that a recording has the same latents in every use.
    latents = draw_posterior(mean, scale, np.random.default_rng([seed, 1, 1]))
    return reference_of(latents, repaint, codec.sample_rate / codec.hop, frames, longest)
