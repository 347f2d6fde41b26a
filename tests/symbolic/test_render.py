"""Rendering: pitches in the sound, notes in the piano roll, and isolation from files that crash or hang."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import wave
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from render_helpers import ENGINES, FONT, FOUND, PITCHES, chord_song, loudest_pitch
from symusic import Score, Tempo

from musiclora.children import process
from musiclora.cli import main
from musiclora.errors import ConfigError, DataError
from musiclora.reporting.roll import roll_of
from musiclora.symbolic import render
from musiclora.symbolic.decoding import pieces
from musiclora.symbolic.render import Rendering, find_engine, find_soundfont, read_score, render_audio, render_file
from musiclora.symbolic.rendering.worker import resample_sinc, scale_to_peak
from musiclora.symbolic.task import SymbolicTask


def silent_song() -> Score:
    score = Score(480)
    score.tempos.append(Tempo(0, 100.0))
    return score


def read_wave(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 44100, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2) / 32768


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


@pytest.mark.slow
def test_render_audio_survives_a_synthesiser_that_crashes(tmp_path, monkeypatch):
    chord_song().dump_midi(tmp_path / "in.mid")
    spoiled = process._CHILD_CODE.replace(
        "serve(", "import musiclora.symbolic.rendering.worker as w, os; w.play_song = lambda *rest: os.abort(); serve("
    )
    monkeypatch.setattr(process, "_CHILD_CODE", spoiled)
    with pytest.raises(DataError, match="the synthesiser crashed"):
        render_audio(tmp_path / "in.mid", tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.skipif(os.name != "posix", reason="the program is a script, and process groups are POSIX")
def test_the_time_limit_ends_the_program_fluidsynth_too(tmp_path, monkeypatch):
    chord_song().dump_midi(tmp_path / "in.mid")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "fluidsynth"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/pid\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(render, "find_engine", lambda: "fluidsynth")

    class Clock(threading.Timer):
        """Timer that runs out as soon as the program runs, however slow the machine is."""

        def run(self):
            while not self.finished.wait(0.02):
                if (tmp_path / "pid").exists():
                    self.function()
                    return

    monkeypatch.setattr(process.threading, "Timer", Clock)
    with pytest.raises(DataError, match="stopped after 180 s"):
        render_audio(tmp_path / "in.mid", tmp_path / "out.wav")
    pid = int((tmp_path / "pid").read_text())
    for _ in range(6000):  # the system ends it at its own pace
        if not is_running(pid):
            break
        time.sleep(0.01)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    if sys.platform == "linux":  # a zombie waits for its reaper, which may be slow or missing in a container
        state = Path(f"/proc/{pid}/stat")
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] not in "ZX"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("content", ["text", "cut off"])
def test_a_bad_soundfont_is_named_and_not_the_song(tmp_path, monkeypatch, engine, content):
    monkeypatch.setattr(render, "find_engine", lambda: engine)
    font = tmp_path / "bad.sf2"
    font.write_bytes(b"no soundfont" if content == "text" else FONT.read_bytes()[:1_000_000])
    with pytest.raises(DataError, match=r"^--soundfont .*bad.sf2: not a usable .sf2 soundfont") as caught:
        render_audio(FOUND / "gap.mid", tmp_path / "out.wav", font)
    assert "gap.mid" not in str(caught.value)
    assert not (tmp_path / "out.wav").exists()


def test_render_reports_on_stdout_and_as_json(tmp_path):
    arguments = ["render", str(FOUND / "truncated.mid"), "--output", str(tmp_path / "o.wav"), "--soundfont", str(FONT)]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["output"] == str(tmp_path / "o.wav")
    assert (found["kind"], found["parts"], Path(found["soundfont"])) == ("sound", 1, FONT)
    assert found["seconds"] == pytest.approx(8.5, abs=2.5)
    assert "damaged (cut off)" in found["remarks"][0]
    assert "damaged (cut off)" in result.stderr
    picture = CliRunner().invoke(main, ["render", str(FOUND / "gap.mid"), "--output", str(tmp_path / "o.png")])
    assert picture.stdout == f"wrote {tmp_path / 'o.png'}\n"


@pytest.mark.parametrize(("parts", "words"), [(1, "2.0 s, 1 part, by x with f.sf2"), (16, "16 parts,")])
def test_the_parts_that_are_played_are_counted_in_words(parts, words):
    assert words in Rendering(Path("o.wav"), "sound", (), 2.0, parts, "x", Path("f.sf2")).line()


@pytest.mark.parametrize("name", ["score.mscz", "missing.mid", "x.txt"])
def test_a_file_that_is_not_read_is_named_with_what_to_do(tmp_path, name):
    source = tmp_path / name
    if name != "missing.mid":
        source.touch()
    words = {"score.mscz": "a MuseScore file, which is not read: export it as MIDI", "missing.mid": "no such file"}
    with pytest.raises(DataError, match=words.get(name, "not a music file by its ending")):
        render_audio(source, tmp_path / "out.wav")


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


def test_render_file_reads_abc_and_goes_by_the_ending(tmp_path):
    tune = "X:1\nT:Scale\nM:4/4\nL:1/4\nK:C\nCDEF|GABc|\n"
    (tmp_path / "tune.abc").write_text(tune)
    render_file(tmp_path / "tune.abc", tmp_path / "tune.png")
    render_file(tmp_path / "tune.abc", tmp_path / "tune.wav", FONT)
    assert roll_of(read_score(tmp_path / "tune.abc")).pitch.tolist() == [60, 62, 64, 65, 67, 69, 71, 72]
    assert len(read_wave(tmp_path / "tune.wav")) > 44100 * 4
    with pytest.raises(ConfigError, match=r"ends in .wav .*, .png .*, .mid .* or .abc"):
        render_file(tmp_path / "tune.abc", tmp_path / "tune.mp3")


@pytest.mark.parametrize("plays", [True, False])
def test_a_sample_of_a_run_has_its_sound_beside_it_where_something_can_play_it(tmp_path, monkeypatch, plays):
    def write_sample(model, tokenizer, folder, name, *rest):
        chord_song().dump_midi(folder / f"{name}.mid")
        return folder / f"{name}.mid"

    monkeypatch.setattr(pieces, "write_midi_sample", write_sample)
    if not plays:
        monkeypatch.setattr(render.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(render.shutil, "which", lambda name: None)
    task = SimpleNamespace(tokenizer=None, _notes_at_once=lambda: None, _copies=SimpleNamespace(programs=()))
    SymbolicTask.write_sample(task, None, tmp_path, "base", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.mid", *(["base.wav"] if plays else [])]
