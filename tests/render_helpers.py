"""Songs and measures of sound for the tests of rendering."""

from __future__ import annotations

import math
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from symusic import Note, Score, Track

PITCHES = [57, 61, 64, 69]
FOUND = Path(__file__).parents[0] / "golden" / "found"
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
