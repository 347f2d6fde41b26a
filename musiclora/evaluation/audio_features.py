"""Features of a recording: 45 librosa features averaged over time, and the mean log-mel spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from musiclora.errors import DataError
from musiclora.evaluation.artefacts.compare import MeasuredFile
from musiclora.evaluation.groups import group_related

ANALYSIS_RATE = (
    22050  # Hz; what librosa's features are usually computed at, so that figures of other papers are comparable
)
WINDOW, HOP, MELS, MFCCS = 2048, 512, 128, 20  # samples, samples, bands, coefficients
FLOOR_DB = 80.0  # below a recording's loudest mel value
ANALYSIS_RMS = 0.1  # root mean square of every recording before analysis
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 300.0
_SILENT_RMS = 1e-4  # -80 dB of full scale, four steps of 16 bits
_CHROMA, _CONTRAST = 12, 7

FEATURE_NAMES: tuple[str, ...] = (
    *(f"mfcc_{i}" for i in range(MFCCS)),
    *(f"chroma_{name}" for name in ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")),
    *(f"contrast_{i}" for i in range(_CONTRAST)),
    "centroid",
    "bandwidth",
    "rolloff",
    "zero_crossings",
    "onset_strength",
    "tempo",
)


@dataclass(frozen=True)
class Recordings:
    """Features of several recordings.

    Attributes:
        names: their files' names.
        vectors: float64 [N, 45], columns as FEATURE_NAMES.
        spectra: float64 [N, 128], mean log-mel spectra in dB.
        left_out: a line for each file that was not measured, or only in part.
        sources: the recording that each file was cut from; empty where every file is a recording.
        artefacts: of all files that could be read, silent ones included.
    """

    names: tuple[str, ...]
    vectors: np.ndarray
    spectra: np.ndarray
    left_out: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    artefacts: tuple[MeasuredFile, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def groups(self) -> list[np.ndarray]:
        """Indices of the files of each recording: segments of one source, and files with the same sound."""
        sources = self.sources or tuple(str(number) for number in range(len(self)))
        sounds = (row.tobytes() + spectrum.tobytes() for row, spectrum in zip(self.vectors, self.spectra, strict=True))
        keys = [(f"source {source}", f"sound {sound.hex()}") for source, sound in zip(sources, sounds, strict=True)]
        return [np.array(group) for group in group_related(keys)]


def resample_mono(audio: np.ndarray, rate: int) -> np.ndarray:
    """Mix to one channel at 22,050 Hz and subtract the mean, since a constant offset is inaudible.

    Args:
        audio: float [channels, N] or [N].
        rate: its sample rate in Hz.

    Returns:
        float32 [N * 22050 / rate].

    Raises:
        DataError: it holds NaN or infinity, or is shorter than half a second.
    """
    mono = audio.mean(axis=0) if audio.ndim == 2 else audio
    if not np.isfinite(mono).all():
        raise DataError("holds samples that are not numbers")
    if mono.size < SHORTEST_SECONDS * rate:
        raise DataError(f"is {mono.size / rate:.4g} s long; at least {SHORTEST_SECONDS} s can be measured")
    if rate != ANALYSIS_RATE:
        import soxr

        mono = soxr.resample(mono.astype(np.float32), rate, ANALYSIS_RATE)
    centred: np.ndarray = (mono - mono.mean(dtype=np.float64)).astype(np.float32)
    return centred


def level_gain(samples: np.ndarray) -> np.float32:
    """Compute the factor that gives samples [N] a root mean square of 0.1.

    Raises:
        DataError: they are silent.
    """
    level = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    if level < _SILENT_RMS:
        raise DataError("is silent (its channels mixed to one are below -80 dB of full scale)")
    return np.float32(ANALYSIS_RMS / level)


def log_mel(power: np.ndarray) -> np.ndarray:
    """Compute the log-mel spectrogram in dB, with a floor 80 dB below its loudest value.

    Args:
        power: float32 [1025, T], squared magnitudes of a Hann-windowed transform of 2048 samples.

    Returns:
        float32 [128, T]; Slaney's mel filters of equal area, 0 to 11,025 Hz.
    """
    import librosa

    mel = librosa.feature.melspectrogram(S=power, sr=ANALYSIS_RATE, n_mels=MELS)
    decibels: np.ndarray = librosa.power_to_db(mel, ref=1.0, amin=1e-10, top_db=FLOOR_DB)
    return decibels


def stft_magnitudes(samples: np.ndarray) -> np.ndarray:
    """Compute magnitudes of the short-time Fourier transform, float32 [1025, 1 + N // 512], of samples [N]."""
    import librosa

    result: np.ndarray = np.abs(librosa.stft(samples, n_fft=WINDOW, hop_length=HOP))
    return result


def measure_features(audio: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Measure one recording.

    Args:
        audio: float [channels, N] or [N].
        rate: its sample rate in Hz.

    Returns:
        The feature vector, float64 [45]: each feature's mean over the frames, and one tempo in beats a minute. The
        mean log-mel spectrum, float64 [128], in dB.

    Raises:
        DataError: it holds NaN or infinity, is shorter than half a second, or silent.

    Source: the features are librosa's (McFee et al. 2015) with its default parameters, except that chroma assumes
        A = 440 Hz (an estimated tuning would hide what may be a trait of the music) and contrast has the floor, too.
    """
    samples = resample_mono(audio, rate)
    samples = level_gain(samples) * samples  # features do not depend on how loud a recording was made
    magnitude = stft_magnitudes(samples)
    power = magnitude**2
    mel = log_mel(power)
    frames = [*_timbre_features(mel, magnitude, power), *_spectral_features(magnitude, samples)]
    onsets, tempo = _onsets_and_tempo(mel)
    means = [np.atleast_2d(part).mean(axis=1, dtype=np.float64) for part in (*frames, onsets)]
    return np.concatenate([*means, [tempo]]), mel.mean(axis=1, dtype=np.float64)


def _timbre_features(mel: np.ndarray, magnitude: np.ndarray, power: np.ndarray) -> list[np.ndarray]:
    from librosa import feature

    # Without a floor the valleys are rounding errors, which depend on the file format.
    floored = np.maximum(magnitude, magnitude.max() * np.float32(10 ** (-FLOOR_DB / 20)))
    return [
        feature.mfcc(S=mel, n_mfcc=MFCCS),
        feature.chroma_stft(S=power, sr=ANALYSIS_RATE, tuning=0.0),
        feature.spectral_contrast(S=floored, sr=ANALYSIS_RATE),
    ]


def _spectral_features(magnitude: np.ndarray, samples: np.ndarray) -> list[np.ndarray]:
    from librosa import feature

    centroid = feature.spectral_centroid(S=magnitude, sr=ANALYSIS_RATE)
    return [
        centroid,
        feature.spectral_bandwidth(S=magnitude, sr=ANALYSIS_RATE, centroid=centroid),
        feature.spectral_rolloff(S=magnitude, sr=ANALYSIS_RATE),
        feature.zero_crossing_rate(samples, frame_length=WINDOW, hop_length=HOP),
    ]


def _onsets_and_tempo(mel: np.ndarray) -> tuple[np.ndarray, float]:
    from librosa import feature
    from librosa.onset import onset_strength

    strength = onset_strength(S=mel, sr=ANALYSIS_RATE, hop_length=HOP)
    tempo = feature.tempo(onset_envelope=strength, sr=ANALYSIS_RATE, hop_length=HOP)
    return strength, float(np.atleast_1d(tempo)[0])
