"""Songs and measures of sound for the tests of rendering."""

from __future__ import annotations

import math
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from symusic import Note, Score, TimeSignature, Track

PITCHES = [57, 61, 64, 69]
FOUND = Path(__file__).parents[1] / "golden" / "found"
FONT = Path(str(find_spec("pretty_midi").submodule_search_locations[0])) / "TimGM6mb.sf2"
ENGINES = [
    "midirenderer",
    pytest.param(
        "fluidsynth",
        marks=pytest.mark.skipif(
            not shutil.which("fluidsynth"), reason="the program fluidsynth is not installed: apt-get install it"
        ),
    ),
]


def chord_song(pitches=PITCHES, spacing: int = 480) -> Score:
    score = Score(480)
    track = Track(program=73)  # a flute: its strongest partial is the fundamental
    for i, pitch in enumerate(pitches):
        track.notes.append(Note(i * spacing, 470, pitch, 100))
    score.tracks.append(track)
    return score


def loudest_pitch(audio: np.ndarray) -> float:
    """Return the MIDI pitch of the strongest frequency."""
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 17))
    return 69 + 12 * math.log2(spectrum.argmax() * 44100 / (1 << 17) / 440)


def band_song(programs=(73, 0, 33), bars: int = 4, drums: bool = True, names: tuple[str, ...] = ()) -> Score:
    """Return a song of quarters in 4/4: each program plays its own octave, the drums kick, snare and closed hat."""
    score = Score(480)
    score.time_signatures.append(TimeSignature(0, 4, 4))
    for number, program in enumerate(programs):
        track = Track(program=program, name=names[number] if number < len(names) else "")
        for beat in range(4 * bars):
            pitch = 36 + 12 * (number % 6) + (0, 4, 7, 5)[beat % 4]
            track.notes.append(Note(480 * beat, 470, pitch, 50 + 20 * (beat % 3) + number % 7))
        score.tracks.append(track)
    if drums:
        score.tracks.append(Track(is_drum=True))
        for beat in range(4 * bars):
            score.tracks[-1].notes.append(Note(480 * beat, 60, (36, 38)[beat % 2], 100 if beat % 2 else 60))
            score.tracks[-1].notes.append(Note(480 * beat + 240, 60, 42, 80))
    return score
