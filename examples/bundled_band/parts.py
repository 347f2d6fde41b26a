"""The parts of a band over a harmonised tune: drums, bass, chords, pad and counter-melody as lists of notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from harmony import Chord, Key
from styles import DRUMS, FILL_DRUMS

QUARTER = 480  # ticks
_ACCENT = {"X": 12, "x": 0, "o": -24}
_BASS_RANGE = (28, 45)
_CHORD_RANGE = (50, 67)
_PAD_RANGE = (52, 72)
_DRUM_STROKE = 60  # ticks of a drum note


@dataclass(frozen=True)
class Note:
    """One note: onset and duration in ticks, MIDI pitch, and loudness relative to its part's."""

    time: int
    duration: int
    pitch: int
    accent: int = 0


@dataclass(frozen=True)
class Frame:
    """Time of a tune.

    Attributes:
        numerator, denominator: metre.
        bars: number of bars.
        first: bar with which the first phrase begins; 1 after a pickup.
        before: bars of an introduction.
        chords: chord of each segment.
        segments: segments in a bar.
    """

    numerator: int
    denominator: int
    bars: int
    first: int
    before: int
    chords: Sequence[Chord]
    segments: int

    @property
    def bar(self) -> int:
        """Ticks of a bar."""
        return 4 * QUARTER * self.numerator // self.denominator

    @property
    def beat(self) -> int:
        """Ticks of a beat: three eighths in compound metres."""
        compound = self.denominator == 8 and self.numerator % 3 == 0 and self.numerator > 3
        return 3 * QUARTER // 2 if compound else 4 * QUARTER // self.denominator

    def chord_at(self, time: int) -> Chord:
        """Chord that sounds at a tick."""
        return self.chords[min(len(self.chords) - 1, time * self.segments // self.bar)]

    def phrase(self, bar: int) -> int:
        """Number of the phrase of eight bars that a bar belongs to."""
        return max(0, bar - self.first) // 8

    def slots(self, pattern: str) -> list[tuple[int, str]]:
        """Lay a pattern on one bar: ticks from the bar line and sign of each slot.

        In 6/8, 9/8 and 12/8, and in triple quarters and halves, a slot is an eighth and the pattern is repeated or cut.
        """
        eighths = self.bar // (QUARTER // 2)
        compound = self.beat == 3 * QUARTER // 2
        if compound or (self.numerator % 3 == 0 and self.denominator < 8):
            size = QUARTER // 2
            pattern = (pattern * (eighths // len(pattern) + 1))[:eighths]
        else:
            size = self.bar // len(pattern)
        return [(i * size, sign) for i, sign in enumerate(pattern)]


def strokes(slots: Sequence[tuple[int, str]], end: int) -> list[tuple[int, int, str]]:
    """Join held slots: onset, ticks until the next stroke or rest, and sign, of each stroke."""
    found: list[tuple[int, int, str]] = []
    holding = False
    for place, (time, sign) in enumerate(slots):
        until = slots[place + 1][0] if place + 1 < len(slots) else end
        if sign == "-" and holding:
            start, _, first = found[-1]
            found[-1] = (start, until - start, first)
        elif sign not in ".-":
            found.append((time, until - time, sign))
        holding = sign != "." and bool(found)
    return found


def near(pitch_class: int, around: int) -> int:
    """Pitch of a pitch class that is nearest to another pitch."""
    return around + (pitch_class - around + 6) % 12 - 6


def write_drums(frame: Frame, pattern: Mapping[str, str], enters: int, rng: np.random.Generator) -> list[Note]:
    """Write the drums: the pattern, a fill at the end of phrases, a crash after it, one stroke at the end."""
    notes: list[Note] = []
    crash = False
    for bar in range(enters, frame.bars - 1):
        start, place = bar * frame.bar, (bar - frame.first) % 8
        fill = bar >= frame.first and (place == 7 or (place == 3 and rng.random() < 0.25)) and bar > enters
        until = frame.bar - (frame.beat if frame.bar <= 3 * frame.beat else 2 * frame.beat) if fill else frame.bar
        for letter, line in pattern.items():
            for time, sign in frame.slots(line):
                if sign in _ACCENT and time < until and not (crash and time == 0 and letter in "HDOT"):
                    notes.append(Note(start + time, _DRUM_STROKE, DRUMS[letter], _ACCENT[sign]))
        if crash:
            notes.append(Note(start, _DRUM_STROKE, DRUMS["C"], 8))
            crash = False
        if fill:
            notes += write_fill(start + until, start + frame.bar, frame, rng)
            crash = rng.random() < 0.8
    last = (frame.bars - 1) * frame.bar
    ending = ("K", "C") if {"S", "O", "A", "D"} & pattern.keys() else tuple(pattern)[:1]
    return notes + [Note(last, _DRUM_STROKE, DRUMS[letter], 8) for letter in ending]


def write_fill(start: int, end: int, frame: Frame, rng: np.random.Generator) -> list[Note]:
    """Write a fill: strokes that go down the drums and grow louder."""
    eighth = QUARTER // 2
    step = eighth if frame.beat == 3 * eighth or rng.random() < 0.4 else eighth // 2
    times = [t for t in range(start, end, step) if t == start or rng.random() < 0.85]
    drums = [letter for letter in FILL_DRUMS if rng.random() < 0.8] or ["S"]
    if rng.random() < 0.3:
        drums = ["S"]
    return [
        Note(t, _DRUM_STROKE, DRUMS[drums[i * len(drums) // len(times)]], -8 + 16 * i // len(times))
        for i, t in enumerate(times)
    ]


def write_bass(frame: Frame, pattern: str, enters: int, rng: np.random.Generator) -> list[Note]:
    """Write the bass: the root where a chord begins, then the pattern's degrees; a step to the next root at times."""
    notes: list[Note] = []
    before = 36
    chord: Chord | None = None
    for bar in range(enters, frame.bars - 1):
        start = bar * frame.bar
        line = strokes(frame.slots(pattern), frame.bar)
        for place, (time, duration, sign) in enumerate(line):
            now = frame.chord_at(start + time)
            begins = now is not chord or time == 0
            root = near(now.root, before if begins else 36)
            root += 12 * (root < _BASS_RANGE[0]) - 12 * (root > _BASS_RANGE[1] - 4)
            if begins or sign == "1":
                pitch = root
            elif sign == "8":
                pitch = root + 12
            else:
                pitch = near(now.fifth if sign == "5" else now.notes[1], root + (4 if root < 34 else -3))
            approach = place == len(line) - 1 and place > 0 and not begins and rng.random() < 0.15
            if approach:
                goal = near(frame.chord_at(start + frame.bar).root, 36)
                pitch = goal + (-1 if rng.random() < 0.5 else 2)
            notes.append(Note(start + time, duration, pitch, 4 if time == 0 else 0))
            chord, before = now, root
    last = (frame.bars - 1) * frame.bar
    return [*notes, Note(last, frame.bar * 3 // 4, near(frame.chord_at(last).root, 36), 6)]


def voice(chord: Chord, size: int, centre: float, low: int, high: int) -> list[int]:
    """Choose the inversion of a chord inside a range whose middle is nearest to the centre."""
    notes = list(chord.notes)
    if len(notes) > size:
        notes.remove(chord.fifth)  # a seventh chord in three voices has no fifth
    notes = notes[:size]
    best: list[int] = []
    for turn in range(len(notes)):
        order = notes[turn:] + notes[:turn]
        for bottom in range(low, low + 12):
            if bottom % 12 != order[0]:
                continue
            pitches = [bottom]
            for note in order[1:]:
                pitches.append(pitches[-1] + (note - pitches[-1]) % 12)
            worse = best and abs(np.mean(pitches) - centre) >= abs(np.mean(best) - centre)
            if pitches[-1] <= high + 5 and not worse:
                best = pitches
    return best


def add_seventh(chord: Chord, key: Key) -> Chord:
    """Add the diatonic seventh to a triad; the dominant of a minor key gets a minor seventh."""
    if len(chord.notes) > 3:
        return chord
    scale = key.scale
    seventh = (chord.root + 10) % 12 if chord.root not in scale else scale[(scale.index(chord.root) + 6) % 7]
    return Chord(chord.degree, (*chord.notes, seventh))


def write_chords(
    frame: Frame, pattern: str, enters: int, gate: float, size: int, power: bool, low: int = _CHORD_RANGE[0]
) -> list[Note]:
    """Write struck, held or broken chords with little movement of the voices."""
    notes: list[Note] = []
    centre = float(low + 9)
    place = 0
    for bar in range(enters, frame.bars - 1):
        start = bar * frame.bar
        for time, duration, sign in strokes(frame.slots(pattern), frame.bar):
            chord = frame.chord_at(start + time)
            if power:
                root = near(chord.root, 45)
                pitches = [root, root + 7]
            else:
                pitches = voice(chord, size, centre, low, low + 17)
                centre = 0.7 * float(np.mean(pitches)) + 0.3 * (low + 9)
            sounding = max(60, int(duration * gate) // 20 * 20)
            if sign == "a":
                steps = [*pitches, *pitches[-2:0:-1]]
                place = 0 if time == 0 else place + 1
                notes.append(Note(start + time, duration, steps[place % len(steps)], 4 if time == 0 else 0))
            else:
                notes += [Note(start + time, sounding, pitch, _ACCENT.get(sign, 0)) for pitch in pitches]
    last = (frame.bars - 1) * frame.bar
    final = frame.chord_at(last)
    pitches = [near(final.root, 45), near(final.root, 45) + 7] if power else voice(final, 3, centre, low, low + 17)
    return notes + [Note(last, frame.bar * 3 // 4 // 20 * 20, pitch, 4) for pitch in pitches]


def write_pad(frame: Frame, enters: int, size: int) -> list[Note]:
    """Write held chords, struck anew where the chord changes or four bars are over."""
    notes: list[Note] = []
    centre = 60.0
    segment = frame.bar // frame.segments
    at = enters * frame.segments
    count = frame.bars * frame.segments
    while at < count:
        chord = frame.chords[at]
        end = at + 1
        while end < count and frame.chords[end] == chord and (end - at) < 2 * frame.segments:
            end += 1
        pitches = voice(chord, size, centre, _PAD_RANGE[0], _PAD_RANGE[1])
        centre = 0.7 * float(np.mean(pitches)) + 18.0
        notes += [Note(at * segment, (end - at) * segment, pitch) for pitch in pitches]
        at = end
    return notes


def write_thirds(frame: Frame, melody: Sequence[Note], key: Key, enters: int) -> list[Note]:
    """Write a second voice under the melody: a third or sixth below in the scale, on a chord tone on the beat."""
    notes = []
    scale = set(key.scale)
    for note in melody:
        if note.time < enters * frame.bar or note.duration < 60:
            continue
        chord = set(frame.chord_at(note.time).notes)
        below = [note.pitch - step for step in (3, 4, 8, 9, 5, 7)]
        strong = note.time % frame.beat == 0
        fitting = [p for p in below if p % 12 in (chord if strong else chord | scale)]
        if fitting:
            notes.append(Note(note.time, note.duration, fitting[0]))
    return notes


def write_line(frame: Frame, melody: Sequence[Note], key: Key, enters: int, rng: np.random.Generator) -> list[Note]:
    """Write a slow counter-line: one chord tone a segment or two, near the last one, with passing notes at times."""
    notes: list[Note] = []
    segment = frame.bar // frame.segments
    pitch = 62
    for at in range(enters * frame.segments, frame.bars * frame.segments):
        tones = [near(note, pitch) for note in frame.chords[at].notes[:3]]
        tones = [t + 12 * (t < 55) - 12 * (t > 74) for t in tones]
        tones.sort(key=lambda t: (abs(abs(t - pitch) - 2), t))
        same = pitch in tones and at % frame.segments and frame.chords[at] == frame.chords[at - 1]
        if same and notes:
            last = notes.pop()
            notes.append(Note(last.time, last.duration + segment, last.pitch))
            continue
        pitch = tones[0] if rng.random() < 0.7 else tones[-1]
        notes.append(Note(at * segment, segment, pitch))
    return notes
