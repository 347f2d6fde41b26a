"""Harmony of a tune by a stated rule: key by profile, then the best path of chords through its half bars.

A chord fits a half bar by the share of the melody's weighted time on its notes. Changes cost, moves along the circle of
fifths and cadences at phrase ends are worth something, and the last chord is the tonic. The path that is worth most is
found by dynamic programming (Viterbi 1967).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SCALES = {
    "ionian": (0, 2, 4, 5, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "aeolian": (0, 2, 3, 5, 7, 8, 10),
}
_DEGREE_WEIGHTS = (3.0, 1.0, 1.5, 1.0, 2.0, 1.0, 0.9)
_OUTSIDE = -3.0  # weight of a pitch class outside the scale
_FINAL_NOTE = 1.2  # worth of a tune that ends on the tonic
_SIGNATURE = 0.5  # worth of the key signature that is printed
_FIT = {0: 1.0, 1: 0.9, 2: 0.8, 3: 0.4}  # root, third, fifth, seventh
_NO_FIT = -0.9
_DEGREE_PRIOR = (0.15, -0.05, -0.25, 0.08, 0.1, 0.0, -0.1)
_MID_BAR_CHANGE, _CHANGE = -0.25, -0.05
_MOVES = {(4, 0): 0.2, (1, 4): 0.12, (3, 4): 0.08, (3, 0): 0.06, (0, 3): 0.05, (6, 0): 0.05, (5, 1): 0.05, (4, 3): -0.1}
_PHRASE_END = 0.25


@dataclass(frozen=True)
class Key:
    """Tonic (pitch class) and mode of a tune."""

    tonic: int
    mode: str

    @property
    def scale(self) -> tuple[int, ...]:
        """Pitch classes of the scale, from the tonic on."""
        return tuple((self.tonic + step) % 12 for step in SCALES[self.mode])

    @property
    def is_minor(self) -> bool:
        """True where the third is minor."""
        return 3 in SCALES[self.mode]

    @property
    def fifths(self) -> int:
        """Sharps of the key signature, negative for flats."""
        shift = {"ionian": 0, "mixolydian": -1, "dorian": -2, "aeolian": -3}[self.mode]
        return (7 * self.tonic + 5 + shift) % 12 - 5


@dataclass(frozen=True)
class Chord:
    """Chord on a degree (0 to 6) of the scale: pitch classes from the root on."""

    degree: int
    notes: tuple[int, ...]

    @property
    def root(self) -> int:
        """Pitch class of the root."""
        return self.notes[0]

    @property
    def fifth(self) -> int:
        """Pitch class of the fifth."""
        return self.notes[2]


def find_key(pitches: np.ndarray, durations: np.ndarray, fifths: int | None = None) -> Key:
    """Find the key whose profile fits a melody best.

    Args:
        pitches: MIDI pitches in order, int [n], n at least 1.
        durations: their durations in any unit, [n].
        fifths: sharps of the printed key signature, negative for flats; None where there is none.
    """
    histogram = np.bincount(pitches % 12, weights=durations, minlength=12)
    histogram = histogram / max(histogram.sum(), 1e-9)
    best, found = -np.inf, Key(0, "ionian")
    for mode, scale in SCALES.items():
        profile = np.full(12, _OUTSIDE)
        profile[list(scale)] = _DEGREE_WEIGHTS
        for tonic in range(12):
            score = float(histogram @ np.roll(profile, tonic)) + _FINAL_NOTE * (int(pitches[-1]) % 12 == tonic)
            score += _SIGNATURE * (Key(tonic, mode).fifths == fifths)
            if score > best + 1e-9:
                best, found = score, Key(tonic, mode)
    return found


def chords_of(key: Key) -> list[Chord]:
    """List the chords of a key: major and minor triads, and the dominant with and without its seventh."""
    scale = key.scale
    chords = []
    for degree in range(7):
        notes = tuple(scale[(degree + step) % 7] for step in (0, 2, 4))
        if (notes[2] - notes[0]) % 12 == 7:
            chords.append(Chord(degree, notes))
    dominant = tuple((key.tonic + step) % 12 for step in (7, 11, 2))
    if key.mode in ("ionian", "aeolian"):
        chords.append(Chord(4, (*dominant, (key.tonic + 5) % 12)))
    if key.mode == "aeolian":
        chords.append(Chord(4, dominant))
    return chords


def weigh(
    times: np.ndarray, durations: np.ndarray, pitches: np.ndarray, segment: int, count: int, beat: int
) -> np.ndarray:
    """Weigh the pitch classes of each segment by time, more where a note begins on the segment or on a beat.

    Args:
        times: onsets in ticks [n].
        durations: ticks [n].
        pitches: MIDI [n].
        segment: ticks of a segment.
        count: number of segments.
        beat: ticks of a beat.

    Returns:
        float64 [count, 12].
    """
    weights = np.zeros((count, 12))
    for time, duration, pitch in zip(times.tolist(), durations.tolist(), pitches.tolist(), strict=True):
        accent = 1.6 if time % segment == 0 else 1.25 if time % beat == 0 else 1.0
        for at in range(time // segment, min(count, (time + duration - 1) // segment + 1)):
            inside = min(time + duration, (at + 1) * segment) - max(time, at * segment)
            weights[at, pitch % 12] += inside * (accent if at == time // segment else 1.0)
    return weights


def harmonise(weights: np.ndarray, key: Key, segments_a_bar: int, first_bar: int) -> list[Chord]:
    """Find the best chord for every segment.

    Args:
        weights: see `weigh`, float64 [S, 12].
        key: key of the tune.
        segments_a_bar: segments in a bar.
        first_bar: number of the bar with which the first phrase of four bars begins; 1 after a pickup.
    """
    chords = chords_of(key)
    fits = np.full((len(chords), 12), _NO_FIT)
    for i, chord in enumerate(chords):
        for place, note in enumerate(chord.notes):
            fits[i, note] = _FIT[place]
    totals = weights.sum(1, keepdims=True)
    values = weights / np.maximum(totals, 1e-9) @ fits.T + np.array([_DEGREE_PRIOR[c.degree] for c in chords])
    values += _phrase_ends(len(weights), chords, segments_a_bar, first_bar)
    moves = np.array([[_MOVES.get((a.degree, b.degree), 0.0) + (a != b) * _CHANGE for b in chords] for a in chords])
    within = moves + np.array([[(a != b) * _MID_BAR_CHANGE for b in chords] for a in chords])
    worth = values[0]
    back = []
    for at in range(1, len(weights)):
        step = worth[:, None] + (moves if at % segments_a_bar == 0 else within)
        back.append(step.argmax(0))
        worth = step.max(0) + values[at]
    path = [int(worth.argmax())]
    for before in reversed(back):
        path.append(int(before[path[-1]]))
    return [chords[i] for i in reversed(path)]


def _phrase_ends(count: int, chords: Sequence[Chord], segments_a_bar: int, first_bar: int) -> np.ndarray:
    """Worth of the tonic and the dominant at the ends of phrases, and of the tonic at both ends, [count, chords]."""
    tonic = np.array([chord.degree == 0 for chord in chords], float)
    dominant = np.array([chord.degree == 4 for chord in chords], float)
    worth = np.zeros((count, len(chords)))
    for at in range(count):
        bar = at // segments_a_bar - first_bar
        if at % segments_a_bar == segments_a_bar - 1 and bar % 4 == 3:
            worth[at] = _PHRASE_END * (tonic if bar % 8 == 7 else np.maximum(tonic, dominant))
    worth[0] += 0.3 * tonic
    worth[-segments_a_bar:] += 1.0 * tonic
    return worth
