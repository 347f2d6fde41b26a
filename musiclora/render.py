"""MIDI to sound: finds an engine and a soundfont, and renders in a child process with a time limit."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from musiclora.convert.files import atomic_write
from musiclora.errors import DataError

MAX_SECONDS = 15 * 60.0
TIME_LIMIT = 180.0
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
    """The soundfont to play with: the option, $MUSICLORA_SOUNDFONT, system folders, the pretty_midi wheel.

    Raises:
        DataError: the file named does not exist, or none is found; with what to install.
    """
    for where, name in (("--soundfont", option), (SOUNDFONT_VARIABLE, os.environ.get(SOUNDFONT_VARIABLE))):
        if name:
            path = Path(name).expanduser()
            if not path.is_file():
                raise DataError(f"{where} {name}: there is no such file; give a .sf2 soundfont")
            return path
    for path in _candidates():
        return path
    raise DataError(
        f"no soundfont found: {_INSTALL} brings one, or name a .sf2 file with --soundfont or {SOUNDFONT_VARIABLE}"
    )


def _candidates() -> Iterator[Path]:
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
    """`midirenderer` where its wheel is installed, else `fluidsynth` where the program is.

    Raises:
        DataError: neither; with what to install.
    """
    if importlib.util.find_spec("midirenderer"):
        return "midirenderer"
    if shutil.which("fluidsynth"):
        return "fluidsynth"
    raise DataError(f"nothing here can play MIDI: {_INSTALL}, or install the program fluidsynth")


def render_audio(midi: Path, out: Path, soundfont: Path | None = None, time_limit: float = TIME_LIMIT) -> None:
    """Render a MIDI file to a WAV file, 44.1 kHz, stereo, 16 bit, peak at -1 dB.

    Silences over three seconds are shortened and what lies beyond 15 minutes is left out.

    Args:
        midi: file to play.
        out: WAV file; appears whole or not at all.
        soundfont: overrides the search, see `find_soundfont`.
        time_limit: seconds after which the synthesiser is stopped.

    Raises:
        DataError: no engine, no soundfont, or a file that cannot be played.
    """
    if not midi.is_file():
        raise DataError(f"{midi}: there is no such file")
    engine, font = find_engine(), find_soundfont(soundfont)
    with tempfile.TemporaryDirectory(prefix="musiclora-") as folder:
        wav, job = Path(folder) / "out.wav", Path(folder) / "job.json"
        settings = {"midi": str(midi.resolve()), "soundfont": str(font.resolve()), "engine": engine, "wav": str(wav)}
        job.write_text(json.dumps(settings | {"max_seconds": MAX_SECONDS}), encoding="utf-8")
        _run_child(job, midi, font, time_limit)
        atomic_write(out, wav.read_bytes())


def _run_child(job: Path, midi: Path, font: Path, time_limit: float) -> None:
    # -P: the working folder must not shadow the package
    command = [sys.executable, "-P", "-m", "musiclora.render_child", str(job)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=time_limit, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{midi}: the synthesiser was stopped after {time_limit:.0f} s; the file may be damaged"
        ) from error
    if done.returncode == 0:
        return
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    reason = lines[-1][:200] if lines and done.returncode > 0 else f"the synthesiser crashed ({done.returncode})"
    raise DataError(f"{midi}: cannot be played with {font.name}: {reason}")
