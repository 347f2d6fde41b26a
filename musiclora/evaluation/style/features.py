"""Features of the style card: each piece gives a histogram or a number a feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from musiclora.evaluation.style.events import CHORD_QUARTERS, PieceEvents
from musiclora.music.instruments import DRUMS, instrument_name

_LARGEST_INTERVAL = 12  # semitones; larger ones count as this
_NOTE_VALUES = np.array([1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1, 3 / 2, 2, 3, 4])  # quarter notes
_VALUE_LABELS = ("1/8", "1/6", "1/4", "1/3", "1/2", "2/3", "3/4", "1", "1.5", "2", "3", "4+")
_VELOCITY_STEP = 8
_MOST_VOICES = 8
_BAR_STEPS = 16  # sixteenths; what lies later in a long bar counts together
# Ratings of the twelve tones in a major key (Krumhansl and Kessler 1982).
_MAJOR_PROFILE = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
_DEGREES = ("1", "b2", "2", "b3", "3", "4", "#4", "5", "b6", "6", "b7", "7")


@dataclass(frozen=True)
class Feature:
    """One feature.

    Attributes:
        key: its key in `--json`.
        title: its name in tables.
        axis: what is counted and in which unit, for the picture.
        labels: name of each bin of the histogram; empty where a piece gives one number.
        measure: returns float64 [bins] that sum to 1, or [1]; None where a piece has nothing to measure.
    """

    key: str
    title: str
    axis: str
    labels: tuple[str, ...]
    measure: Callable[[PieceEvents], np.ndarray | None]


def _shares(values: np.ndarray, bins: int, weights: np.ndarray | None = None) -> np.ndarray | None:
    """Count values 0..bins-1 and divide by their sum; None without any."""
    counts = np.bincount(values, weights, minlength=bins).astype(np.float64)
    total = counts.sum()
    return counts / total if total > 0 else None


def pitch_classes(piece: PieceEvents) -> np.ndarray | None:
    """Return the share of notes on each degree of the key, so that pieces in different keys compare.

    The tonic is that of the major key whose profile correlates best (Krumhansl 1990, chapter 4); a minor piece is
    counted from its relative major.
    """
    found = _shares(piece.pitched.pitches % 12, 12)
    if found is None:
        return None
    fits = [float(np.corrcoef(np.roll(found, -tonic), _MAJOR_PROFILE)[0, 1]) for tonic in range(12)]
    tonic = int(np.argmax(np.nan_to_num(fits, nan=-1.0)))
    return np.roll(found, -tonic)


def intervals(piece: PieceEvents) -> np.ndarray | None:
    """Return the share of the steps between successive onsets' highest notes, within each pitched track."""
    pitched = piece.pitched
    found = []
    for track in np.unique(pitched.tracks):
        own = pitched.select(pitched.tracks == track)
        found.append(np.diff(np.array([own.pitches[chord].max() for chord in chords(own.onsets)])))
    steps = np.concatenate(found) if found else np.zeros(0)
    steps = np.clip(steps, -_LARGEST_INTERVAL, _LARGEST_INTERVAL).astype(np.int64)
    return _shares(steps + _LARGEST_INTERVAL, 2 * _LARGEST_INTERVAL + 1)


def chords(onsets: np.ndarray) -> list[np.ndarray]:
    """Group the indices of ascending onsets, float64 [n], that follow closer than 1/16 of a quarter note."""
    if not len(onsets):
        return []
    return np.split(np.arange(len(onsets)), np.flatnonzero(np.diff(onsets) >= CHORD_QUARTERS) + 1)


def note_values(quarters: np.ndarray) -> np.ndarray | None:
    """Return the share of durations nearest to each note value; the nearest is that of the smallest ratio."""
    distance = np.abs(np.log2(np.maximum(quarters, 1e-3))[:, None] - np.log2(_NOTE_VALUES))
    return _shares(distance.argmin(axis=1), len(_NOTE_VALUES))


def inter_onsets(piece: PieceEvents) -> np.ndarray | None:
    """Return the share of the times between successive onsets of the whole piece, drums included."""
    firsts = np.array([piece.onsets[chord[0]] for chord in chords(piece.onsets)])
    return note_values(np.diff(firsts))


def durations(piece: PieceEvents) -> np.ndarray | None:
    """Return the share of the pitched notes' durations."""
    return note_values(piece.pitched.durations)


def velocities(piece: PieceEvents) -> np.ndarray | None:
    """Return the share of velocities, in steps of 8."""
    return _shares(np.clip(piece.velocities, 0, 127) // _VELOCITY_STEP, 128 // _VELOCITY_STEP)


def polyphony(piece: PieceEvents) -> np.ndarray | None:
    """Return the share of time with each number of pitched notes that sound, between the first onset and last end."""
    pitched = piece.pitched
    ends = pitched.onsets + pitched.durations
    times = np.concatenate((pitched.onsets, ends))
    changes = np.concatenate((np.ones(len(pitched)), -np.ones(len(pitched))))
    order = np.lexsort((changes, times))
    times, sounding = times[order], np.cumsum(changes[order])[:-1]
    voices = np.clip(sounding, 0, _MOST_VOICES).astype(np.int64)
    return _shares(voices, _MOST_VOICES + 1, np.diff(times)) if len(pitched) else None


def bar_positions(piece: PieceEvents) -> np.ndarray | None:
    """Return the share of notes that begin on each sixteenth of the bar."""
    bar = np.searchsorted(piece.bar_starts, piece.onsets + CHORD_QUARTERS, side="right") - 1
    place = piece.onsets - piece.bar_starts[np.maximum(bar, 0)]
    steps = np.clip(np.rint(place * 4), 0, _BAR_STEPS).astype(np.int64)
    return _shares(steps, _BAR_STEPS + 1)


def note_density(piece: PieceEvents) -> np.ndarray | None:
    """Return the number of notes a quarter note, drums included."""
    return np.array([len(piece) / max(piece.length, 1.0)]) if len(piece) else None


def pitch_range(piece: PieceEvents) -> np.ndarray | None:
    """Return the distance in semitones from the lowest to the highest note."""
    pitches = piece.pitched.pitches
    return np.array([float(pitches.max() - pitches.min())]) if len(pitches) else None


def instruments(piece: PieceEvents) -> np.ndarray | None:
    """Return the share of notes of each General MIDI program; the last are the drums."""
    return _shares(np.where(piece.programs == DRUMS, 128, piece.programs), 129)


FEATURES = (
    Feature("pitch_class", "pitch class", "degree above the tonic", _DEGREES, pitch_classes),
    Feature(
        "interval",
        "interval",
        "semitones",
        tuple(f"{step:+d}" if step else "0" for step in range(-_LARGEST_INTERVAL, _LARGEST_INTERVAL + 1)),
        intervals,
    ),
    Feature("inter_onset", "inter-onset time", "quarter notes", _VALUE_LABELS, inter_onsets),
    Feature("duration", "duration", "quarter notes", _VALUE_LABELS, durations),
    Feature("velocity", "velocity", "MIDI velocity", tuple(str(v) for v in range(0, 128, _VELOCITY_STEP)), velocities),
    Feature(
        "polyphony",
        "polyphony",
        "notes that sound",
        (*(str(voices) for voices in range(_MOST_VOICES)), f"{_MOST_VOICES}+"),
        polyphony,
    ),
    Feature(
        "bar_position",
        "position in the bar",
        "quarter notes",
        (*(f"{step / 4:g}" for step in range(_BAR_STEPS)), "4+"),
        bar_positions,
    ),
    Feature("note_density", "note density", "notes a quarter note", (), note_density),
    Feature("range", "range", "semitones", (), pitch_range),
    Feature(
        "instruments",
        "instruments",
        "",
        (*(instrument_name(program) for program in range(128)), instrument_name(DRUMS)),
        instruments,
    ),
)
