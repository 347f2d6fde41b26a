"""Estimates of tempo and key on music made for it, and none where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from require import require

from musiclora.audio.acestep.tempo_key import MusicEstimate, estimate_key, estimate_music, estimate_tempo

RATE = 22050


def clicks(bpm: float, seconds: float = 20.0) -> np.ndarray:
    rng, sound = np.random.default_rng(0), np.zeros(int(seconds * RATE), np.float32)
    burst = rng.standard_normal(800) * np.exp(-np.arange(800) / 150)
    for beat in np.arange(0.1, seconds - 0.1, 60 / bpm):
        at = int(beat * RATE)
        sound[at : at + 800] += 0.5 * burst[: len(sound) - at]
    return sound


def chords(degrees: list[tuple[int, ...]], root: int, seconds: float = 1.0) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    parts = []
    for chord in degrees * 2:
        notes = [440 * 2 ** ((root + step - 69) / 12) for step in chord]
        parts.append(sum(np.sin(2 * np.pi * f * h * t) / h for f in notes for h in (1, 2, 3)) * np.exp(-2 * t))
    return (0.1 * np.concatenate(parts)).astype(np.float32)


MAJOR = [(0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7)]  # I IV V I
MINOR = [(0, 3, 7), (5, 8, 12), (7, 11, 14), (0, 3, 7)]  # i iv V i


@pytest.fixture(autouse=True)
def _librosa() -> None:
    require("librosa")


@pytest.mark.parametrize("bpm", [90, 120])
def test_the_tempo_of_clicks(bpm: int) -> None:
    assert estimate_tempo(clicks(bpm)) == pytest.approx(bpm, abs=2)


@pytest.mark.parametrize(
    ("degrees", "root", "key"), [(MAJOR, 60, "C major"), (MAJOR, 66, "F# major"), (MINOR, 57, "A minor")]
)
def test_the_key_of_cadences(degrees: list[tuple[int, ...]], root: int, key: str) -> None:
    assert estimate_key(chords(degrees, root)) == key


def test_noise_has_no_key() -> None:
    noise = np.random.default_rng(3).standard_normal(10 * RATE).astype(np.float32)
    assert estimate_key(0.1 * noise) is None


def test_silence_and_a_short_sound_have_neither(tmp_path: Path) -> None:
    soundfile = require("soundfile")
    for name, sound in (("silent", np.zeros(8 * RATE)), ("short", clicks(120, 2.0))):
        soundfile.write(tmp_path / f"{name}.wav", sound, RATE)
        assert estimate_music(tmp_path / f"{name}.wav") == MusicEstimate(None, None)


def test_a_long_recording_is_heard_in_its_middle(tmp_path: Path) -> None:
    soundfile = require("soundfile")
    noise = np.random.default_rng(1).standard_normal(60 * RATE) * 0.01
    soundfile.write(tmp_path / "song.wav", np.concatenate([noise, clicks(96, 90.0), noise]), RATE)
    found = estimate_music(tmp_path / "song.wav")
    assert found.bpm == pytest.approx(96, abs=2)
    assert found.line().startswith(f"about {found.bpm} bpm, ")
