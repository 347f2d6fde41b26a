"""A given recording as the known part of a new one: what is kept of it, and what is made anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclora.audio.files.sound import read_recording
from musiclora.backends.base import Codec
from musiclora.errors import ConfigError

# -6 dBFS: what the original brings a reference's peak to before it is encoded.
_PEAK = 0.5012


@dataclass(frozen=True)
class Reference:
    """Latents of a recording and which frames of the new one come from it.

    Attributes:
        known: float32 [T, C], zeros where the recording has no frames.
        mask: bool [T], True where the frame is made anew.
    """

    known: np.ndarray
    mask: np.ndarray

    def rows(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Both for so many equal rows: [B, T, C] and [B, T]."""
        return np.tile(self.known, (count, 1, 1)), np.tile(self.mask, (count, 1))


def reference_of(
    latents: np.ndarray, repaint: Sequence[tuple[float, float]], pace: float, frames: int | None, longest: int
) -> tuple[Reference, list[str]]:
    """What is kept of a recording's latents.

    Args:
        latents: float32 [T, C].
        repaint: (start, end) in seconds, -1 for the beginning or the end; empty continues the recording.
        pace: latent frames a second.
        frames: length of the new recording, None for the old one's where parts are repainted, else `longest`.
        longest: what the model can hold.

    Returns:
        The reference, and notes for the user. Frames after the recording's end are always made anew.

    Raises:
        ConfigError: nothing would be made anew, nothing kept, or a span that is none.
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
        first, last = _span(start, end, pace, frames)
        mask[first:last] = True
    if not mask.any() or mask.all():
        what = "nothing would be made anew" if not mask.any() else "nothing of the recording would be kept"
        raise ConfigError(f"--init-audio: {what}; give --repaint START END inside it, or more --seconds than it has")
    return Reference(known, mask), notes


def _span(start: float, end: float, pace: float, frames: int) -> tuple[int, int]:
    """Frames of a span in seconds.

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
    """Read, bring to -6 dBFS and encode a recording, and draw a sample of its posterior by the seed.

    Raises:
        MusicLoraError: the file cannot be read, or see reference_of.
    """
    audio = read_recording(path, codec.sample_rate, codec.audio_channels)
    peak = float(np.abs(audio).max(initial=0.0))
    audio = audio * np.float32(_PEAK / peak) if peak else audio
    mean, scale = (part[0] for part in codec.encode(audio[None]))
    # Drawn by its own key, so that the same recording has the same latents whatever is made of it.
    noise = np.random.default_rng([seed, 1, 1]).standard_normal(mean.shape, np.float32)
    deviation = np.logaddexp(np.float32(0), scale) + np.float32(1e-4)  # softplus, as the codec's posterior is defined
    return reference_of(mean + deviation * noise, repaint, codec.sample_rate / codec.hop, frames, longest)
