"""Recording to continue or to repaint: its latents as known frames, its samples where nothing is generated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclora.audio.files.sound import read_recording
from musiclora.audio.latents.blocks import encode_blocks
from musiclora.audio.latents.levels import decibels_to_factor, lower_sound
from musiclora.audio.latents.posterior import draw_posterior
from musiclora.backends.base import Codec
from musiclora.errors import ConfigError

_FADE_SAMPLES = 1024  # of a cross-fade, 23 ms at 44.1 kHz; at most half a latent frame


@dataclass(frozen=True)
class Reference:
    """Known latents of a new piece, and the mask of the frames to generate.

    Attributes:
        known: float32 [T, C], zeros where the recording has no frames.
        mask: bool [T], True where the frame is generated.
        sound: the recording, float32 [channels, N] at the codec's rate and its own level; None where it is not kept.
        gain: factor by which the recording was scaled before it was encoded.
    """

    known: np.ndarray
    mask: np.ndarray
    sound: np.ndarray | None = None
    gain: float = 1.0

    def rows(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Repeat both for equal rows: [B, T, C] and [B, T]."""
        return np.tile(self.known, (count, 1, 1)), np.tile(self.mask, (count, 1))

    def restore_sound(self, decoded: np.ndarray) -> np.ndarray:
        """Put the recording's own samples where nothing is generated, cross-faded at the seams.

        The cross-fade lies inside the generated span where the recording goes on there, so that every kept frame has
        the recording's samples. A continuation is faded in over the recording's last milliseconds. Where what is
        generated would pass full scale, it alone is turned down.

        Args:
            decoded: the whole piece as the codec decodes it, float32 [channels, T * hop].

        Returns:
            float32 [channels, T * hop], at the recording's level; a copy of `decoded` without a recording.
        """
        made = decoded / np.float32(self.gain)
        if self.sound is None:
            return made
        share = _kept_share(self.mask, decoded.shape[1], self.sound.shape[1])
        peak = float(np.abs(made[:, share < 1]).max(initial=0.0))
        made = made / np.float32(max(1.0, peak))
        kept = np.zeros_like(made)
        length = min(made.shape[1], self.sound.shape[1])
        kept[:, :length] = self.sound[:, :length]
        mixed = share * kept + (1 - share) * made
        whole: np.ndarray = np.where(share == 1, kept, mixed).astype(np.float32)
        return whole


def _kept_share(mask: np.ndarray, samples: int, recorded: int) -> np.ndarray:
    """Compute the recording's share of each sample, float32 [samples]: 1 where it is kept, 0 where it is replaced.

    Args:
        mask: bool [T], True where the frame is generated.
        samples: length of the piece, T latent frames.
        recorded: length of the recording in samples.
    """
    hop = samples // len(mask)
    kept = ~np.repeat(mask, hop) & (np.arange(samples) < recorded)
    share, width = kept.astype(np.float32), min(_FADE_SAMPLES, hop // 2)
    fall = (0.5 + 0.5 * np.cos(np.pi * (np.arange(width) + 0.5) / max(1, width))).astype(np.float32)
    for start, end in _true_runs(kept):
        if start:
            share[start - width : start] = fall[::-1]
        if end < samples:
            # Nothing of the recording is left to fade out after its end.
            at = end if end + width <= recorded else end - width
            share[at : at + width] = fall
    return share


def _true_runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def reference_of(
    latents: np.ndarray,
    repaint: Sequence[tuple[float, float]],
    pace: float,
    frames: int | None,
    longest: int,
    further: int | None = None,
) -> tuple[Reference, list[str]]:
    """Divide a recording's latents into known frames and frames to generate.

    Args:
        latents: float32 [T, C].
        repaint: (start, end) in seconds, -1 for the beginning or the end; empty continues the recording.
        pace: latent frames a second.
        frames: length of the new piece; None is the recording's length for repainting, else `further` or `longest`.
        longest: longest piece of the model in frames.
        further: frames that a continuation without a length adds; None for as many as the model makes.

    Returns:
        The reference, and notes for the user. Frames after the recording's end are always generated.

    Raises:
        ConfigError: no frame or every frame would be generated, or a span lies outside.
    """
    notes = []
    if frames is None:
        whole = longest if further is None else min(longest, len(latents) + further)
        frames = min(len(latents), longest) if repaint else whole
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
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ConfigError(f"--repaint {start:g} {end:g}: both must be seconds; -1 is the beginning or the end")
    first = 0 if start == -1 else int(start * pace)
    last = frames if end == -1 else int(end * pace)
    if not 0 <= first < last or first >= frames:
        raise ConfigError(
            f"--repaint {start:g} {end:g}: no part of a recording of {frames / pace:.1f} s; give a start before an "
            "end, -1 for its beginning or end"
        )
    return first, min(last, frames)


def read_reference(
    path: Path,
    repaint: Sequence[tuple[float, float]],
    codec: Codec,
    frames: int | None,
    longest: int,
    seed: int,
    *,
    peak: float | None,
    further: int | None = None,
) -> tuple[Reference, list[str]]:
    """Read a recording, encode it at a peak, or below where its latents are too large, and draw from them.

    Args:
        path: the recording.
        repaint, frames, longest, further: see `reference_of`.
        codec: encodes it.
        seed: of the draw.
        peak: level at which it is encoded; None for its own.

    Raises:
        MusicLoraError: the file cannot be read, or does not fit; see `reference_of`.
    """
    sound = read_recording(path, codec.sample_rate, codec.audio_channels)
    own = float(np.abs(sound).max(initial=0.0))
    sound = sound / np.float32(max(1.0, own))  # a file of 16 bits cannot go beyond full scale
    gain = peak / min(1.0, own) if peak and own else 1.0
    latents = draw_latents(gain, sound, codec, [seed, 1, 1])
    lowered = lower_sound(sound * np.float32(gain), latents, codec)
    if lowered:
        gain *= float(decibels_to_factor(lowered))
        latents = draw_latents(gain, sound, codec, [seed, 1, 1])
    reference, notes = reference_of(latents, repaint, codec.sample_rate / codec.hop, frames, longest, further)
    if lowered:
        change = 20 * math.log10(gain)
        notes.append(
            f"--init-audio: encoded {abs(change):.1f} dB {'quieter' if change < 0 else 'louder'}, where its "
            "latents are not too large; what is kept of it stays at its own level"
        )
    return dataclasses.replace(reference, sound=sound, gain=gain), notes


def draw_latents(gain: float, sound: np.ndarray, codec: Codec, key: Sequence[int]) -> np.ndarray:
    """Encode a recording [channels, N] at a gain and draw its latents, float32 [T, C].

    Args:
        gain: factor of the sound.
        sound: float32 [channels, N] at the codec's rate.
        codec: encodes it.
        key: random key; the seed's alone, so that a recording has the same latents in every use.
    """
    mean, scale = encode_blocks(sound, codec, gain)
    return draw_posterior(mean, scale, np.random.default_rng(list(key)))
