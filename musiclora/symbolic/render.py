"""Rendering of MIDI to sound: finds a synthesiser and a soundfont, and runs them in a child process."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from musiclora.convert.files.atomic import atomic_write
from musiclora.convert.files.outputs import check_outputs
from musiclora.errors import ConfigError, DataError
from musiclora.formats import check_writable

if TYPE_CHECKING:
    from symusic import Score

MAX_SOUND_SECONDS = 15 * 60.0
TIME_LIMIT_SECONDS = 180.0
SOUNDFONT_VARIABLE = "MUSICLORA_SOUNDFONT"
_FOLDERS = (
    "/usr/share/sounds/sf2",
    "/usr/share/soundfonts",
    "/usr/local/share/sounds/sf2",
    "/usr/local/share/soundfonts",
    "/opt/homebrew/share/soundfonts",
    "/opt/homebrew/share/sounds/sf2",
    "/Library/Audio/Sounds/Banks",
    "~/Library/Audio/Sounds/Banks",
    "~/.local/share/soundfonts",
)
_PREFERRED = ("default.sf2", "default-GM.sf2", "FluidR3_GM.sf2", "GeneralUser-GS.sf2", "TimGM6mb.sf2")
_INSTALL = "pip install 'musiclora[audio]'"


def find_soundfont(option: Path | None = None) -> Path:
    """Find a soundfont: the option, $MUSICLORA_SOUNDFONT, system folders, or the pretty_midi wheel.

    Raises:
        DataError: the named file does not exist, or none is found; the text names what to install.
    """
    for where, name in (("--soundfont", option), (SOUNDFONT_VARIABLE, os.environ.get(SOUNDFONT_VARIABLE))):
        if name:
            path = Path(name).expanduser()
            if not path.is_file():
                raise DataError(f"{where} {name}: there is no such file; give a .sf2 soundfont")
            return path
    for path in _installed_soundfonts():
        return path
    raise DataError(
        f"no soundfont found: {_INSTALL} brings one, or name a .sf2 file with --soundfont or {SOUNDFONT_VARIABLE}"
    )


def _installed_soundfonts() -> Iterator[Path]:
    for folder in (Path(name).expanduser() for name in _FOLDERS):
        if folder.is_dir():
            found = sorted(folder.glob("*.sf2"))
            yield from (p for name in _PREFERRED for p in found if p.name == name)
            yield from found
    # find_spec does not import the package
    spec = importlib.util.find_spec("pretty_midi")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(Path(place).glob("*.sf2"))


def find_engine() -> str:
    """Return `midirenderer` if its wheel is installed, else `fluidsynth` if the program is.

    Raises:
        DataError: neither is installed; the text names what to install.
    """
    if importlib.util.find_spec("midirenderer"):
        return "midirenderer"
    if shutil.which("fluidsynth"):
        return "fluidsynth"
    raise DataError(f"nothing here can play MIDI: {_INSTALL}, or install the program fluidsynth")


def render_file(source: Path, out: Path, soundfont: Path | None = None, *, overwrite: bool = False) -> None:
    """Render a MIDI or ABC file to sound or to a piano roll, by the suffix of out.

    Raises:
        ConfigError: out ends neither in .wav nor in .png, is an input, or exists and overwrite is off.
        DataError: the file cannot be read or played.
    """
    suffix = out.suffix.lower()
    if suffix not in (".wav", ".png"):
        raise ConfigError(f"--output {out}: expected a name that ends in .wav (sound) or .png (piano roll)")
    check_outputs("--output", [out], {"FILE": source, "--soundfont": soundfont}, overwrite=overwrite)
    check_writable(out, "--output")
    if suffix == ".wav":
        render_audio(source, out, soundfont)
        return
    from musiclora.reporting.piano_roll import render_pianoroll

    render_pianoroll(read_score(source), out, source.name)


def render_audio(midi: Path, out: Path, soundfont: Path | None = None, time_limit: float = TIME_LIMIT_SECONDS) -> None:
    """Render a MIDI file to a WAV file, 44.1 kHz, stereo, 16 bit, peak at -1 dB.

    Silences over three seconds are shortened, and the sound ends after 15 minutes.

    Args:
        midi: MIDI or ABC file.
        out: WAV file, which appears whole or not at all.
        soundfont: .sf2 file; None searches, see `find_soundfont`.
        time_limit: seconds after which the synthesiser is stopped.

    Raises:
        DataError: no synthesiser or soundfont is found, or the file cannot be played.
    """
    engine, font = find_engine(), find_soundfont(soundfont)
    settings: dict[str, str | float] = {
        "soundfont": str(font.resolve()),
        "engine": engine,
        "max_seconds": MAX_SOUND_SECONDS,
    }
    atomic_write(out, _run_child(midi, settings, "wav", time_limit))


def read_score(source: Path, time_limit: float = TIME_LIMIT_SECONDS) -> Score:
    """Read and repair a MIDI or ABC file in a child process.

    Returns:
        score in ticks.

    Raises:
        DataError: the file cannot be read, or holds no notes.
    """
    from symusic import Score

    return Score.from_midi(_run_child(source, {}, "midi", time_limit))


def _run_child(source: Path, settings: Mapping[str, object], wanted: str, time_limit: float) -> bytes:
    """Run one job of `render_worker` on a file and return its output: a `wav` file, or a repaired `midi` file.

    Raises:
        DataError: the file is missing, or the child process fails or exceeds the time limit.
    """
    if not source.is_file():
        raise DataError(f"{source}: there is no such file")
    with tempfile.TemporaryDirectory(prefix="musiclora-") as folder:
        target, job = Path(folder) / "out", Path(folder) / "job.json"
        job.write_text(json.dumps({**settings, "source": str(source.resolve()), wanted: str(target)}), encoding="utf-8")
        # -P keeps the working folder off the import path, where it could shadow the package
        command = [sys.executable, "-P", "-m", "musiclora.symbolic.render_worker", str(job)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=time_limit, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DataError(f"{source}: stopped after {time_limit:.0f} s; the file may be damaged") from error
        if done.returncode == 0:
            return target.read_bytes()
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    crashed = f"{'the synthesiser' if wanted == 'wav' else 'the reader'} crashed ({done.returncode})"
    reason = lines[-1][:200] if lines and done.returncode > 0 else crashed
    raise DataError(f"{source}: cannot be {'played' if wanted == 'wav' else 'read'}: {reason}")
