"""Frames of a recording that the audio copy meter compares: log-mel bands, pitch classes, or latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from musiclora.errors import DataError
from musiclora.evaluation.audio_features import ANALYSIS_RATE, level_gain, resample_mono

FFT_SAMPLES, HOP_SAMPLES = 4096, 2048  # of the transform at 22,050 Hz: bins of 5.4 Hz, which part semitones from 110 Hz
SOUND_RATE = ANALYSIS_RATE / HOP_SAMPLES  # 10.8 frames a second
PATCH_SECONDS = 1.1  # compared as one; about four notes
LEAST_PATCHES = 3  # overlapping by half: the shortest span that is looked for, 2.2 s
_MEL_BANDS, _MEL_HERTZ = 32, (60.0, 8000.0)
_LOWEST_PITCH, _PITCHES = 48, 48  # MIDI notes, four octaves from C3 on
_MEL_FLOOR_DB, _PITCH_FLOOR_DB = 50.0, 40.0  # below the loudest: noise and a codec change the rest


@dataclass(frozen=True)
class View:
    """One kind of features, and how they are compared.

    Attributes:
        name: as users see it.
        pooled: frames of a recording averaged into one row.
        keys: semitones by which a piece is transposed before it is compared; rows have twelve columns where there are
            several.
        scaled: divide each column by its deviation over the training recordings.
    """

    name: str
    pooled: int = 1
    keys: tuple[int, ...] = (0,)
    scaled: bool = False


MEL = View("mel")
# Pitch classes are compared in all keys, at half the rate to take a quarter of the time.
PITCH = View("pitch", 2, tuple(range(-5, 7)))
LATENT = View("latents", scaled=True)
SOUND_VIEWS, LATENT_VIEWS = (MEL, PITCH), (LATENT,)


@dataclass(frozen=True, eq=False)
class Frames:
    """Features of one recording.

    Attributes:
        name: name for messages.
        source: the recording that the file was cut from; recordings of one source are not compared for calibration.
        rows: float32 [T // pooled, columns] by view.
        rate: frames a second.
        length: number of frames T.
        new: bool [T], False where a frame was given by the user and does not count; None where all count.
    """

    name: str
    source: str
    rows: Mapping[View, np.ndarray]
    rate: float
    length: int
    new: np.ndarray | None = None

    @property
    def hop(self) -> int:
        """Frames from one patch to the next; a multiple of every view's pooling."""
        return 2 * max(1, round(PATCH_SECONDS * self.rate / 4))

    @property
    def patches(self) -> int:
        """Number of whole patches of two hops."""
        return self.length // self.hop - 1

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.length / self.rate

    @property
    def has_new_span(self) -> bool:
        """True where enough patches in a row are new to be looked for."""
        if self.new is None:
            return True
        runs = "".join("x" if new else " " for new in self.new_patches).split()
        return max(map(len, runs), default=0) >= LEAST_PATCHES

    @property
    def new_patches(self) -> np.ndarray:
        """Bool [patches], True where every frame of a patch is new."""
        new = np.ones(self.length, bool) if self.new is None else self.new
        halves: np.ndarray = new[: (self.patches + 1) * self.hop].reshape(-1, self.hop).min(axis=1)
        both: np.ndarray = halves[:-1] & halves[1:]
        return both

    def excerpt(self, start: int, frames: int) -> Frames:
        """Cut frames from an even start on."""
        rows = {view: part[start // view.pooled : (start + frames) // view.pooled] for view, part in self.rows.items()}
        new = None if self.new is None else self.new[start : start + frames]
        return replace(self, rows=rows, length=min(frames, self.length - start), new=new)


def sound_frames(name: str, audio: np.ndarray, rate: int, source: str = "", new: np.ndarray | None = None) -> Frames:
    """Compute the frames of a recording from its sound.

    Args:
        name: name for messages.
        audio: float [channels, N] or [N].
        rate: its sample rate in Hz.
        source: the recording that it was cut from; its name where empty.
        new: bool [any number of equal parts of the recording], False where a part was given by the user.

    Raises:
        DataError: it holds NaN or infinity, is silent, or too short to be compared.
    """
    import librosa
    from librosa.filters import mel as mel_filters

    samples = resample_mono(audio, rate)
    samples = level_gain(samples) * samples
    power = np.abs(librosa.stft(samples, n_fft=FFT_SAMPLES, hop_length=HOP_SAMPLES)) ** 2
    low, high = _MEL_HERTZ
    filters = mel_filters(sr=ANALYSIS_RATE, n_fft=FFT_SAMPLES, n_mels=_MEL_BANDS, fmin=low, fmax=high)
    mel = librosa.power_to_db(filters @ power, ref=np.max, top_db=_MEL_FLOOR_DB).T
    semitones = librosa.power_to_db(_semitone_filters() @ power, ref=np.max, top_db=_PITCH_FLOOR_DB).T
    classes = semitones.reshape(len(semitones), -1, 12).sum(axis=1)
    rows = {MEL: mel.astype(np.float32), PITCH: _pool(classes, PITCH.pooled)}
    if new is not None:
        new = new[np.arange(len(mel)) * len(new) // len(mel)]
    return _long_enough(Frames(name, source or name, rows, SOUND_RATE, len(mel), new))


def latent_frames(
    name: str, latents: np.ndarray, rate: float, source: str = "", new: np.ndarray | None = None
) -> Frames:
    """Take latents as frames.

    Args:
        name: name for messages.
        latents: float [T, C].
        rate: latent frames a second.
        source: the recording that they were cut from; the name where empty.
        new: bool [T], False where a frame was given.

    Raises:
        DataError: they are too short to be compared.
    """
    rows = np.ascontiguousarray(latents, np.float32)
    return _long_enough(Frames(name, source or name, {LATENT: rows}, rate, len(rows), new))


def _long_enough(frames: Frames) -> Frames:
    """Return the frames.

    Raises:
        DataError: they are shorter than the shortest span that is looked for.
    """
    if frames.patches < LEAST_PATCHES:
        least = (LEAST_PATCHES + 1) * frames.hop / frames.rate
        raise DataError(f"is {frames.seconds:.2f} s long; copies are found in spans of at least {least:.2f} s")
    return frames


def _semitone_filters() -> np.ndarray:
    """Build triangular filters two semitones wide in log-frequency, float32 [48, 2049]."""
    hertz = np.arange(1, FFT_SAMPLES // 2 + 1) * ANALYSIS_RATE / FFT_SAMPLES
    pitch = 69 + 12 * np.log2(hertz / 440)
    centres = np.arange(_LOWEST_PITCH, _LOWEST_PITCH + _PITCHES)[:, None]
    weights = np.maximum(0, 1 - np.abs(pitch - centres))
    return np.concatenate([np.zeros((_PITCHES, 1)), weights], axis=1).astype(np.float32)


def _pool(rows: np.ndarray, count: int) -> np.ndarray:
    """Average `count` frames at a time: [T, B] to float32 [T // count, B]."""
    whole = len(rows) // count
    pooled: np.ndarray = rows[: whole * count].reshape(whole, count, -1).mean(axis=1)
    return np.ascontiguousarray(pooled, np.float32)
