"""Rendering: pitches in the sound, notes in the piano roll, and isolation from files that crash or hang."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from symusic import Note, Score, Tempo, TimeSignature, Track

from musiclora.errors import ConfigError, DataError
from musiclora.reporting.piano_roll import pianoroll_figure, render_pianoroll, roll_of, shared_limits
from musiclora.symbolic import render
from musiclora.symbolic.render import find_engine, find_soundfont, read_score, render_audio, render_file
from musiclora.symbolic.render_worker import resample_sinc, sanitise_midi, scale_to_peak

PITCHES = [57, 61, 64, 69]


def chord_song(pitches=PITCHES, spacing: int = 480) -> Score:
    score = Score(480)
    track = Track(program=73)  # a flute: its strongest partial is the fundamental
    for i, pitch in enumerate(pitches):
        track.notes.append(Note(i * spacing, 470, pitch, 100))
    score.tracks.append(track)
    return score


def silent_song() -> Score:
    score = Score(480)
    score.tempos.append(Tempo(0, 100.0))
    return score


def read_wave(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 44100, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2) / 32768


def loudest_pitch(audio: np.ndarray) -> float:
    """Return the MIDI pitch of the strongest frequency."""
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 17))
    return 69 + 12 * math.log2(spectrum.argmax() * 44100 / (1 << 17) / 440)


@pytest.mark.parametrize("engine", ["midirenderer", "fluidsynth"])
def test_render_audio_plays_the_pitches_of_the_notes(tmp_path, monkeypatch, engine):
    if engine == "fluidsynth" and not render.shutil.which("fluidsynth"):
        pytest.skip("the program fluidsynth is not installed, and no wheel brings it: apt-get install fluidsynth")
    monkeypatch.setattr(render, "find_engine", lambda: engine)
    chord_song().dump_midi(tmp_path / "in.mid")
    render_audio(tmp_path / "in.mid", tmp_path / "out.wav")
    audio = read_wave(tmp_path / "out.wav")
    assert 3.5 < len(audio) / 44100 < 8  # two seconds of notes, then they fade
    assert np.abs(audio).max() == pytest.approx(0.89, abs=0.01)
    for i, pitch in enumerate(PITCHES):
        part = audio[int((i * 0.5 + 0.1) * 44100) : int((i * 0.5 + 0.45) * 44100), 0]
        # an instrument may sound an octave above; a quarter tone is what vibrato may bend
        assert (loudest_pitch(part) - pitch + 6) % 12 - 6 == pytest.approx(0, abs=0.5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mid", "out.wav"]


def test_render_audio_with_no_engine_says_what_to_install(monkeypatch):
    monkeypatch.setattr(render.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(render.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match=r"musiclora\[audio\]"):
        find_engine()


def test_find_soundfont_searches_in_order(tmp_path, monkeypatch):
    option, variable, system = (tmp_path / name for name in ("option.sf2", "variable.sf2", "system"))
    option.touch()
    variable.touch()
    system.mkdir()
    (system / "zz.sf2").touch()
    (system / "FluidR3_GM.sf2").touch()
    monkeypatch.setattr(render, "_FOLDERS", (str(tmp_path / "none"), str(system)))
    monkeypatch.setenv(render.SOUNDFONT_VARIABLE, str(variable))
    assert find_soundfont(option) == option
    assert find_soundfont() == variable
    monkeypatch.delenv(render.SOUNDFONT_VARIABLE)
    assert find_soundfont() == system / "FluidR3_GM.sf2"
    monkeypatch.setattr(render, "_FOLDERS", ())
    assert find_soundfont().name == "TimGM6mb.sf2"
    assert "pretty_midi" not in sys.modules
    monkeypatch.setattr(render.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"no soundfont found: pip install 'musiclora\[audio\]'"):
        find_soundfont()
    with pytest.raises(DataError, match=r"--soundfont .*there is no such file"):
        find_soundfont(tmp_path / "missing.sf2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MThd", "cannot be played"),
        (b"<html>404</html>", "cannot be played"),
        (silent_song().dumps_midi(), "no notes"),
    ],
    ids=["cut off", "web page", "empty"],
)
def test_render_audio_of_a_bad_file_is_one_clear_error(tmp_path, content, message):
    (tmp_path / "bad.mid").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        render_audio(tmp_path / "bad.mid", tmp_path / "out.wav")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize(
    ("code", "limit", "message"),
    [("import os; os.abort()", 3600.0, "crashed"), ("import threading; threading.Event().wait()", 1.0, "stopped")],
    ids=["crashes", "hangs"],
)
@pytest.mark.slow
def test_render_audio_survives_a_synthesiser_that_crashes_or_hangs(tmp_path, monkeypatch, code, limit, message):
    chord_song().dump_midi(tmp_path / "in.mid")
    real = subprocess.run
    monkeypatch.setattr(render.subprocess, "run", lambda command, **kw: real([sys.executable, "-c", code], **kw))
    with pytest.raises(DataError, match=message):
        render_audio(tmp_path / "in.mid", tmp_path / "out.wav", time_limit=limit)


def test_sanitised_closes_gaps_caps_the_length_and_merges_tracks():
    score = chord_song()
    for number in range(40):
        track = Track(program=number % 3)
        track.notes.append(Note(480 * 3600, 480, 60 + number % 12, 90))  # an hour later
        track.notes.append(Note(480 * 3600 + 480 * 4000, 480 * 100_000, 50, 90))  # a note that lasts all day
        score.tracks.append(track)
    clean = Score.from_midi(sanitise_midi(score.to("second"), max_seconds=20)).to("second")
    assert len(clean.tracks) == 4
    assert clean.end() <= 20 + 2.1
    starts = sorted({round(n.time, 3) for t in clean.tracks for n in t.notes})
    # two seconds of notes, three of silence, the chord, three of silence, the long note
    assert starts == pytest.approx([0, 0.5, 1, 1.5, 4.98, 8.48], abs=0.03)


def test_resampled_keeps_a_tone_and_its_level():
    time = np.arange(48000) / 48000
    tone = np.stack([np.sin(2 * np.pi * 440 * time), np.cos(2 * np.pi * 5000 * time)], 1).astype(np.float32)
    out = resample_sinc(tone, 48000)
    assert out.shape == (44100, 2)
    time = np.arange(44100) / 44100
    expected = np.stack([np.sin(2 * np.pi * 440 * time), np.cos(2 * np.pi * 5000 * time)], 1)
    # a window of 48 taps leaves 3e-5; the ends see the edge of the signal
    assert np.abs(out - expected)[100:-100].max() < 1e-4


def test_normalised_leaves_silence_alone():
    assert np.array_equal(scale_to_peak(np.zeros((10, 2), np.float32)), np.zeros((10, 2)))
    assert np.abs(scale_to_peak(np.array([[0.1, -0.2]], np.float32))).max() == pytest.approx(0.89)


def test_roll_of_counts_in_quarters_and_bars_by_metre():
    score = chord_song(spacing=960)
    score.time_signatures.append(TimeSignature(0, 3, 4))
    score.time_signatures.append(TimeSignature(480 * 6, 6, 8))
    roll = roll_of(score)
    assert roll.start.tolist() == [0, 2, 4, 6]
    assert roll.pitch.tolist() == PITCHES
    assert roll.bars.tolist() == [0, 3, 6, 9]
    assert (shared_limits([roll]).low, shared_limits([roll]).high) == (54, 72)


def test_roll_of_leaves_out_what_is_hours_late():
    score = chord_song()
    score.tracks[0].notes.append(Note(2**30, 2**30, 60, 90))
    roll = roll_of(score)
    assert len(roll.start) == 4
    assert len(roll.bars) < 5


def test_pianoroll_draws_each_note_where_it_sounds():
    roll = roll_of(chord_song())
    figure = pianoroll_figure([("title", roll)])
    axis = figure.subfigs[0].axes[0]
    bodies = axis.collections[-2].get_paths()
    drawn = sorted((round(p.get_extents().x0, 2), round(p.get_extents().y0 + 0.42)) for p in bodies)
    assert drawn == [(0, 57), (1, 61), (2, 64), (3, 69)]
    assert figure.subfigs[0]._suptitle.get_text() == "title"


def test_pianoroll_pair_shares_its_axes():
    short, long = roll_of(chord_song()), roll_of(chord_song([40, 90], spacing=480 * 20))
    figure = pianoroll_figure([("base", short), ("adapted", long)])
    first, second = (part.axes[0] for part in figure.subfigs)
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim() == (37.5, 92.5)


def test_render_pianoroll_writes_a_png_for_any_title(tmp_path):
    render_pianoroll(chord_song(), tmp_path / "roll.png", "二泉映月 $x_1$ <b>")
    image = imread(io.BytesIO((tmp_path / "roll.png").read_bytes()))
    assert image.shape[0] > 150
    assert image.shape[1] > 600
    blue = (image[..., 2] - image[..., 0] > 0.2).mean()
    assert 0.003 < blue < 0.2  # the notes


def test_render_file_reads_abc_and_goes_by_the_ending(tmp_path):
    tune = "X:1\nT:Scale\nM:4/4\nL:1/4\nK:C\nCDEF|GABc|\n"
    (tmp_path / "tune.abc").write_text(tune)
    render_file(tmp_path / "tune.abc", tmp_path / "tune.png")
    render_file(tmp_path / "tune.abc", tmp_path / "tune.wav")
    assert roll_of(read_score(tmp_path / "tune.abc")).pitch.tolist() == [60, 62, 64, 65, 67, 69, 71, 72]
    assert len(read_wave(tmp_path / "tune.wav")) > 44100 * 4
    with pytest.raises(ConfigError, match=r"ends in .wav .* or .png"):
        render_file(tmp_path / "tune.abc", tmp_path / "tune.mp3")


def test_render_pianoroll_without_notes_is_refused(tmp_path):
    with pytest.raises(DataError, match="no notes"):
        render_pianoroll(Score(480), tmp_path / "roll.png", "empty")
    assert not list(tmp_path.iterdir())
