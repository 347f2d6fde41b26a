"""Arrangement of one tune for a band in a style that is drawn: the same for the same tune, seed and styles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from harmony import Key, find_key, harmonise, weigh
from parts import (
    QUARTER,
    Frame,
    Note,
    add_seventh,
    write_bass,
    write_chords,
    write_drums,
    write_line,
    write_pad,
    write_thirds,
)
from styles import TRAINING_STYLES, Style
from symusic import KeySignature, Score, Tempo, TimeSignature, Track
from symusic import Note as MidiNote

# Loudness of a part's plain notes, before accents.
LOUDNESS = {"lead": 94, "chords": 64, "bass": 84, "drums": 82, "pad": 50, "counter": 72}
NAMES = {
    "lead": "Melody",
    "chords": "Chords",
    "bass": "Bass",
    "drums": "Drums",
    "pad": "Pad",
    "counter": "Second voice",
}
_INTRODUCTION = 0.3  # chance of two or four bars before the tune, where a whole band plays
_WILD = {"bass": (*range(32, 40), 43, 58, 70, 87), "": tuple(p for p in range(112) if p not in range(32, 40))}
_SMALL_BANDS = (("lead", "bass"), ("lead", "chords"), ("lead", "drums"), ("lead", "bass", "drums"),
                ("lead", "chords", "bass"), ("lead", "chords", "drums"), ("lead", "counter"))  # fmt: skip
METRES = {"2/2": (4, 4), "2/4": (2, 4), "3/4": (3, 4), "4/4": (4, 4), "3/8": (3, 8), "6/8": (6, 8), "9/8": (9, 8),
          "12/8": (12, 8), "3/2": (3, 2), "6/4": (6, 4)}  # fmt: skip
_SEGMENTS = {(4, 4): 2, (6, 8): 2, (12, 8): 2, (3, 2): 1, (6, 4): 2}


@dataclass(frozen=True)
class Mixture:
    """Shares of the arrangements by their size.

    Attributes:
        alone: share of melodies without a band.
        small: share of two or three parts.
        styles: styles to draw from.
    """

    alone: float = 0.15
    small: float = 0.2
    styles: Sequence[Style] = field(default=TRAINING_STYLES)


def arrange(tune: Score, seed: Sequence[int], mixture: Mixture | None = None) -> Score | None:
    """Arrange a tune.

    Args:
        tune: score of one voice whose first full bar is on a bar line; the highest note of an onset is the melody's.
        seed: key of everything that is drawn.
        mixture: what to draw from.

    Returns:
        The arrangement at 480 ticks a quarter. None where the tune has no note, several metres or an unusual one.
    """
    mixture = mixture or Mixture()
    rng = np.random.default_rng(list(seed))
    melody, metre = read_melody(tune), METRES.get(metre_of(tune))
    if not melody or metre is None:
        return None
    label = f"{metre[0]}/{metre[1]}"
    fitting = [style for style in mixture.styles if label in style.metres]
    if not fitting:
        return None
    shares = np.array([style.share for style in fitting])
    style = fitting[int(rng.choice(len(fitting), p=shares / shares.sum()))]
    size = rng.random()
    roles = _SMALL_BANDS[int(rng.integers(len(_SMALL_BANDS)))] if size < mixture.alone + mixture.small else ()
    before = int(rng.choice((2, 4))) if not roles and size >= mixture.alone and rng.random() < _INTRODUCTION else 0
    signature = int(tune.key_signatures[0].key) if len(tune.key_signatures) else None
    key = find_key(*_columns(melody, "pitch", "duration"), signature)
    melody, frame = _harmonised(melody, metre, key, before)
    if rng.random() < style.sevenths:
        frame = replace(frame, chords=[add_seventh(chord, key) for chord in frame.chords])
    parts: dict[str, list[Note]] = {"lead": melody}
    if size >= mixture.alone:
        parts |= _write_band(frame, key, melody, style, roles, rng)
    programs = _draw_programs(parts, style, rng)
    score = Score(QUARTER)
    tempo = rng.uniform(*style.tempo) * (
        0.55 if label == "2/4" and "4/4" in style.metres and style.tempo[0] > 108 else 1
    )
    score.tempos.append(Tempo(0, round(tempo)))
    score.time_signatures.append(TimeSignature(0, *metre))
    score.key_signatures.append(KeySignature(0, key.fifths, int(key.is_minor)))
    for role, notes in parts.items():
        score.tracks.append(_as_track(role, notes, programs[role], frame, rng))
    return score


def in_simple_time(tune: Score) -> Score:
    """Write a jig with beats of three eighths in quarters, as triplets: 6/8 becomes 4/4, 9/8 becomes 3/4.

    A tune in another metre is returned unchanged. A pickup stays right before the bar line.
    """
    metre = metre_of(tune)
    if metre not in ("6/8", "9/8"):
        return tune
    numerator = {"6/8": 4, "9/8": 3}[metre]
    simple = Score(QUARTER)
    simple.time_signatures.append(TimeSignature(0, numerator, 4))
    simple.key_signatures = tune.key_signatures
    melody = read_melody(tune)
    half = 3 * QUARTER  # a bar of 6/8, two of which make one of 4/4
    late = half if metre == "6/8" and melody and melody[0].time >= half // 2 else 0
    track = Track(name="Melody")
    for note in melody:
        time, duration = (note.time + late) * 2 // 3, max(1, note.duration * 2 // 3)
        track.notes.append(MidiNote(time, duration, note.pitch, 80))
    simple.tracks.append(track)
    return simple


def metre_of(tune: Score) -> str:
    """The tune's metre; empty where it changes. A tune without any is in 4/4."""
    metres = {f"{metre.numerator}/{metre.denominator}" for metre in tune.time_signatures} or {"4/4"}
    return metres.pop() if len(metres) == 1 else ""


def read_melody(tune: Score) -> list[Note]:
    """Notes of the tune at 480 ticks a quarter, the highest of each onset, each at most to the next onset."""
    scale = QUARTER / tune.ticks_per_quarter
    highest: dict[int, tuple[int, int]] = {}
    for track in tune.tracks:
        for note in track.notes:
            time = round(note.time * scale)
            if note.pitch > highest.get(time, (-1, 0))[0]:
                highest[time] = (note.pitch, max(1, round(note.duration * scale)))
    times = sorted(highest)
    ends = [*times[1:], 1 << 40][: len(times)]
    return [Note(t, min(highest[t][1], end - t), highest[t][0]) for t, end in zip(times, ends, strict=True)]


def _columns(melody: Sequence[Note], *names: str) -> list[np.ndarray]:
    return [np.array([getattr(note, name) for note in melody]) for name in names]


def _harmonised(melody: list[Note], metre: tuple[int, int], key: Key, before: int) -> tuple[list[Note], Frame]:
    """Put bars before the melody and harmonise it; a pickup stands in the last of them."""
    segments = _SEGMENTS.get(metre, 1)
    bar = 4 * QUARTER * metre[0] // metre[1]
    first = int(melody[0].time >= bar // 2)
    if before:
        melody = [replace(note, time=note.time + (before - first) * bar) for note in melody]
        first = before
    times, durations, pitches = _columns(melody, "time", "duration", "pitch")
    bars = int((times + durations - 1).max()) // bar + 1
    empty = Frame(*metre, bars, first, before, (), segments)
    weights = weigh(times, durations, pitches, bar // segments, bars * segments, empty.beat)
    return melody, replace(empty, chords=harmonise(weights, key, segments, first))


def _write_band(
    frame: Frame, key: Key, melody: Sequence[Note], style: Style, roles: Sequence[str], rng: np.random.Generator
) -> dict[str, list[Note]]:
    """Write the parts besides the melody; `roles` names them, empty for a whole band."""

    def enters(late: float) -> int:
        if frame.before:
            return 2 if frame.before == 4 and rng.random() < 0.5 * late + 0.2 else 0
        return frame.first + (8 if frame.bars > frame.first + 15 and rng.random() < late else 0)

    def drawn(patterns: Sequence[str]) -> str:
        return patterns[int(rng.integers(len(patterns)))]

    whole, parts = not roles, {}
    if whole or "chords" in roles:
        pattern = drawn(style.chords)
        size = 2 if sum(sign in "xX" for sign in pattern) > 4 or rng.random() < 0.3 else 3
        size = 4 if "a" in pattern else size
        parts["chords"] = write_chords(frame, pattern, enters(0.05), style.gate, size, style.power)
    if whole or "bass" in roles:
        parts["bass"] = write_bass(frame, drawn(style.bass), enters(0.15), rng)
    if whole and rng.random() < style.pad:
        parts["pad"] = write_pad(frame, enters(0.5), int(rng.integers(2, 4)))
    if (whole and rng.random() < style.counter) or "counter" in roles:
        late = frame.first + (8 if frame.bars > frame.first + 15 and rng.random() < 0.7 else 0)
        thirds = rng.random() < 0.5
        parts["counter"] = (
            write_thirds(frame, melody, key, late) if thirds else write_line(frame, melody, key, late, rng)
        )
    if (whole or "drums" in roles) and style.drums:
        pattern_of = style.drums[int(rng.integers(len(style.drums)))]
        if pattern_of:
            parts["drums"] = write_drums(frame, pattern_of, enters(0.2), rng)
    return {role: notes for role, notes in parts.items() if notes}


def _draw_programs(parts: dict[str, list[Note]], style: Style, rng: np.random.Generator) -> dict[str, int]:
    """Draw a program for each part, all different; -1 for the drums."""
    programs: dict[str, int] = {}
    for role in parts:
        if role == "drums":
            programs[role] = -1
            continue
        wild = style.any_program > 0 and rng.random() < style.any_program
        choice = _WILD.get(role, _WILD[""]) if wild else style.programs[role]
        free = [program for program in choice if program not in programs.values()] or list(_WILD[""])
        programs[role] = free[int(rng.integers(len(free)))]
    return programs


def _as_track(role: str, notes: Sequence[Note], program: int, frame: Frame, rng: np.random.Generator) -> Track:
    """Make a track with loudness: the part's, the beat's, the pattern's accents, the phrase, and a small variation."""
    track = Track(name=NAMES[role], program=max(program, 0), is_drum=program < 0)
    last = max(1, frame.phrase(frame.bars - 1))
    noise = np.clip(rng.normal(0, 2.5, len(notes)), -6, 6)
    for note, variation in zip(sorted(notes, key=lambda n: (n.time, n.pitch)), noise.tolist(), strict=True):
        inside = note.time % frame.bar
        beat = 9 if inside == 0 else 4 if inside % frame.beat == 0 else -5
        swell = 8 * min(1.0, frame.phrase(note.time // frame.bar) / last) - 4
        loudness = LOUDNESS[role] + (beat if role != "drums" else beat // 2) + note.accent + swell + variation
        track.notes.append(MidiNote(note.time, note.duration, note.pitch, int(min(124, max(16, round(loudness))))))
    return track
