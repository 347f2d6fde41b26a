"""Estimates of a recording's tempo and key, for songs whose words do not state them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclora.audio.files.sound import Sound
from musiclora.errors import ConfigError

_RATE, _MOST_SECONDS, _LEAST_SECONDS = 22050, 90.0, 5.0
_PITCHES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# Stability of the twelve degrees in major and minor. Source: Krumhansl and Kessler 1982, as listed in Krumhansl 1990.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
# Below these an estimate is a guess: spread of the pitch classes over their mean, correlation of the best key with its
# profile, and its lead over the next best.
_KEY_CONTRAST, _KEY_CORRELATION, _KEY_LEAD = 0.15, 0.6, 0.03
_BEAT_EVENNESS = 0.12  # largest relative spread of the beats' distances


@dataclass(frozen=True)
class MusicEstimate:
    """Tempo and key of a recording as its sound suggests them.

    Attributes:
        bpm: beats a minute, None where no steady beat was found.
        key: such as `A minor`, None where no key stands out.
    """

    bpm: int | None
    key: str | None

    def line(self) -> str:
        """Describe both."""
        bpm = "no steady beat" if self.bpm is None else f"about {self.bpm} bpm"
        return f"{bpm}, {'no clear key' if self.key is None else f'perhaps {self.key}'}"


def need_librosa() -> None:
    """Check that estimates can be made.

    Raises:
        ConfigError: librosa is not installed.
    """
    try:
        import librosa  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "estimates of tempo and key need librosa; try: pip install 'musiclora[audio]', or give --no-estimates"
        ) from error


def estimate_music(path: Path) -> MusicEstimate:
    """Estimate tempo and key from at most 90 seconds in the middle of a recording.

    Raises:
        DataError: it cannot be read.
    """
    sound = _read_middle(path)
    if len(sound) < _LEAST_SECONDS * _RATE or not np.abs(sound).max(initial=0.0):
        return MusicEstimate(None, None)
    return MusicEstimate(estimate_tempo(sound), estimate_key(sound))


def _read_middle(path: Path) -> np.ndarray:
    """Read the middle of a recording, mono float32 [N] at 22,050 Hz; memory is bounded by what is kept."""
    most, kept, total = round(_MOST_SECONDS * _RATE), list[np.ndarray](), 0
    with Sound(path) as sound:
        length = sound.claimed / sound.rate * _RATE if sound.claimed else 0.0
        first = max(0, round((length - most) / 2))
        for block in sound.stream(_RATE):
            begin, end = max(0, first - total), max(0, first + most - total)
            kept.append(np.asarray(block[begin:end].mean(1), np.float32))
            total += len(block)
            if total >= first + most:
                break
    return np.concatenate(kept) if kept else np.zeros(0, np.float32)


def estimate_tempo(sound: np.ndarray) -> int | None:
    """Estimate beats a minute of mono float32 [N] at 22,050 Hz; None where the beats that are found are uneven.

    Source: beat tracking of Ellis 2007 (Journal of New Music Research 36), as librosa has it.
    """
    from librosa.beat import beat_track

    _, beats = beat_track(y=sound, sr=_RATE, units="time")
    gaps = np.diff(beats)
    if len(gaps) < 8:
        return None
    middle = float(np.median(gaps))
    if np.median(np.abs(gaps - middle)) > _BEAT_EVENNESS * middle:
        return None
    steady = gaps[np.abs(gaps - middle) < 2 * _BEAT_EVENNESS * middle]
    return round(60 / float(steady.mean()))


def estimate_key(sound: np.ndarray) -> str | None:
    """Estimate the key of mono float32 [N] at 22,050 Hz; None where none stands out.

    Source: Krumhansl 1990, Cognitive Foundations of Musical Pitch, chapter 4: correlation with key profiles.
    """
    from librosa.effects import harmonic
    from librosa.feature import chroma_cqt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # librosa warns of sound without pitches, which has no key
        chroma = chroma_cqt(y=harmonic(sound), sr=_RATE).mean(axis=1)
    if chroma.std() < _KEY_CONTRAST * chroma.mean() or not chroma.std():
        return None
    names = [f"{pitch} {mode}" for mode in ("major", "minor") for pitch in _PITCHES]
    profiles = [np.roll(profile, shift) for profile in (_MAJOR, _MINOR) for shift in range(12)]
    scores = [float(np.corrcoef(chroma, profile)[0, 1]) for profile in profiles]
    best, second = sorted(range(24), key=lambda i: -scores[i])[:2]
    if scores[best] < _KEY_CORRELATION or scores[best] - scores[second] < _KEY_LEAD:
        return None
    return names[best]
