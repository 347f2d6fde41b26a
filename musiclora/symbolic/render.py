"""Rendering of MIDI to sound: finds a synthesiser and a soundfont, and runs them in a child process."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from musiclora.children.process import Child, ChildLost
from musiclora.convert.files.atomic import atomic_write
from musiclora.convert.files.outputs import check_outputs, check_writable
from musiclora.convert.files.temporary import scratch_folder
from musiclora.errors import ConfigError, DataError
from musiclora.formats import expand_home
from musiclora.symbolic.reading.read_folder import check_readable

if TYPE_CHECKING:
    from symusic import Score

MAX_SOUND_SECONDS = 15 * 60.0
TIME_LIMIT_SECONDS = 180.0
RENDER_WORKER = "musiclora.symbolic.rendering.worker:render_worker"
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
_MIDI, _NOTATION = (".mid", ".midi"), (".musicxml", ".mxl", ".abc")
_INSTALL = "pip install 'musiclora[audio]'"


def find_soundfont(option: Path | None = None, *, packaged_first: bool = False) -> Path:
    """Find a soundfont: the option, $MUSICLORA_SOUNDFONT, system folders, or the pretty_midi wheel.

    Args:
        option: .sf2 file; None searches.
        packaged_first: prefer the wheel's soundfont to those of the system, so that every machine has the same sound.

    Raises:
        DataError: the named file does not exist, or none is found; the text names what to install.
    """
    return _locate_soundfont(option, packaged_first)[0]


def _locate_soundfont(option: Path | None, packaged_first: bool = False) -> tuple[Path, str]:
    """Find a soundfont, and the name of the option or variable that gave it, with a space, for messages."""
    for where, name in (("--soundfont", option), (SOUNDFONT_VARIABLE, os.environ.get(SOUNDFONT_VARIABLE))):
        if name:
            path = expand_home(name)
            if not path.is_file():
                raise DataError(f"{where} {name}: there is no such file; give a .sf2 soundfont")
            return path, f"{where} "
    places = [_system_soundfonts, _packaged_soundfonts]
    for find in reversed(places) if packaged_first else places:
        for path in find():
            return path, "soundfont "
    raise DataError(
        f"no soundfont found: {_INSTALL} brings one, or name a .sf2 file with --soundfont or {SOUNDFONT_VARIABLE}"
    )


def _system_soundfonts() -> Iterator[Path]:
    for folder in (expand_home(name) for name in _FOLDERS):
        if folder.is_dir():
            found = sorted(folder.glob("*.sf2"))
            yield from (p for name in _PREFERRED for p in found if p.name == name)
            yield from found


def _packaged_soundfonts() -> Iterator[Path]:
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


@dataclass(frozen=True)
class Rendering:
    """Result of `render_file`.

    Attributes:
        output: the file written.
        kind: `sound`, `picture`, `midi` or `score`.
        remarks: repairs of the song, and what of it is not in the output.
        seconds: length of the sound; None otherwise.
        parts: channels of tracks that are played or written; None for a picture.
        engine: synthesiser; None without sound.
        soundfont: its file; None without sound.
    """

    output: Path
    kind: Literal["sound", "picture", "midi", "score"]
    remarks: tuple[str, ...]
    seconds: float | None = None
    parts: int | None = None
    engine: str | None = None
    soundfont: Path | None = None

    def record(self) -> dict[str, Any]:
        """Return the values for --json."""
        return {**dataclasses.asdict(self), "remarks": list(self.remarks)}

    def line(self) -> str:
        """Describe the result in a line."""
        if self.kind == "picture":
            return f"wrote {self.output}"
        font = self.soundfont.name if self.soundfont else ""
        parts = f"{self.parts} part{'' if self.parts == 1 else 's'}"
        if self.kind in ("midi", "score"):
            return f"wrote {self.output}: {parts}"
        return f"wrote {self.output}: {self.seconds:.1f} s, {parts}, by {self.engine} with {font}"


def render_file(
    source: Path,
    out: Path,
    soundfont: Path | None = None,
    *,
    solo: str | None = None,
    mute: str | None = None,
    overwrite: bool = False,
) -> Rendering:
    """Render a song to sound, a piano roll, a MIDI file of some of its parts, or a score, by the suffix of out.

    Args:
        source: MIDI, ABC or MusicXML file.
        out: file to write.
        soundfont: .sf2 file for sound; None searches, see `find_soundfont`.
        solo: the parts to render, all where None; names with commas between them, see `part_choice.choose_parts`.
        mute: parts to leave out, also of those of solo.
        overwrite: replace a file that exists.

    Raises:
        ConfigError: out has another suffix, is an input, or exists and overwrite is off; solo or mute name no part.
        DataError: the file cannot be read or played.
    """
    suffix = out.suffix.lower()
    if suffix not in (*_MIDI, *_NOTATION, ".wav", ".png"):
        raise ConfigError(
            f"--output {out}: expected a name that ends in .wav (sound), .png (piano roll), .mid (MIDI of some parts), "
            ".musicxml, .mxl or .abc (score)"
        )
    check_outputs("--output", [out], {"FILE": source, "--soundfont": soundfont}, overwrite=overwrite)
    check_writable(out, "--output")
    if suffix == ".wav":
        return render_audio(source, out, soundfont, solo=solo, mute=mute, overwrite=overwrite)
    if suffix in _MIDI:
        return _write_parts(source, out, solo, mute, overwrite)
    if suffix in _NOTATION:
        return _write_notation(source, out, solo, mute, overwrite)
    from musiclora.reporting.piano_roll import render_pianoroll

    score, remarks = _read_song(source, TIME_LIMIT_SECONDS, solo, mute)
    return Rendering(out, "picture", (*remarks, *render_pianoroll(score, out, source.name, overwrite=overwrite)))


def _write_parts(source: Path, out: Path, solo: str | None, mute: str | None, overwrite: bool) -> Rendering:
    """Write a MIDI file of the chosen parts, in which all that is no note stays as it is."""
    answer = _ask_child(source, {"kind": "midi", "solo": solo, "mute": mute}, "", TIME_LIMIT_SECONDS)
    with _well_formed(source):
        data, parts = answer["midi"].tobytes(), int(answer["parts"])
        remarks = tuple(map(str, answer["remarks"]))
    atomic_write(out, data, overwrite=overwrite)
    return Rendering(out, "midi", remarks, parts=parts)


def _write_notation(source: Path, out: Path, solo: str | None, mute: str | None, overwrite: bool) -> Rendering:
    """Write the chosen parts as MusicXML or ABC, their notes on a grid of note values."""
    from musiclora.symbolic.rendering.notation import notate_score
    from musiclora.symbolic.rendering.write_abc import abc_of
    from musiclora.symbolic.rendering.write_musicxml import musicxml_of, mxl_of

    score, remarks = _read_song(source, TIME_LIMIT_SECONDS, solo, mute)
    notation = notate_score(score)
    try:
        if out.suffix.lower() == ".abc":
            data = abc_of(notation, source.stem).encode()
        else:
            data = musicxml_of(notation, source.stem)
            data = mxl_of(data) if out.suffix.lower() == ".mxl" else data
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    atomic_write(out, data, overwrite=overwrite)
    return Rendering(out, "score", (*remarks, *notation.remarks), parts=len(notation.parts))


def render_audio(
    midi: Path,
    out: Path,
    soundfont: Path | None = None,
    time_limit: float = TIME_LIMIT_SECONDS,
    *,
    solo: str | None = None,
    mute: str | None = None,
    overwrite: bool = True,
) -> Rendering:
    """Render a MIDI file to a WAV file, 44.1 kHz, stereo, 16 bit, peak at -1 dB.

    Each track keeps its own program, volume, pan and bends, whatever channel others use. The sound ends after 15
    minutes, a note after 30 s, and at most 240 parts are played.

    Args:
        midi: MIDI, ABC or MusicXML file.
        out: WAV file, which appears whole or not at all.
        soundfont: .sf2 file; None searches, see `find_soundfont`.
        time_limit: seconds after which the synthesiser is stopped.
        solo, mute: parts to play and to leave out, see `render_file`.
        overwrite: replace a file that exists.

    Raises:
        ConfigError: solo or mute name no part.
        DataError: no synthesiser or usable soundfont is found, or the file cannot be played or makes no sound.
    """
    engine, (font, origin) = find_engine(), _locate_soundfont(soundfont)
    task = {"kind": "sound", "engine": engine, "soundfont": str(font.resolve()), "max_seconds": MAX_SOUND_SECONDS}
    task |= {"solo": solo, "mute": mute}
    answer = _ask_child(midi, task, f"{origin}{font}", time_limit)
    with _well_formed(midi):
        wav, seconds, parts = answer["wav"].tobytes(), float(answer["seconds"]), int(answer["parts"])
        remarks = tuple(map(str, answer["remarks"]))
    atomic_write(out, wav, overwrite=overwrite)
    return Rendering(out, "sound", remarks, seconds, parts, engine, font)


def read_score(source: Path, time_limit: float = TIME_LIMIT_SECONDS) -> Score:
    """Read and repair a MIDI, ABC or MusicXML file in a child process.

    Returns:
        score in ticks.

    Raises:
        DataError: the file cannot be read, or holds no notes.
    """
    return _read_song(source, time_limit)[0]


def _read_song(
    source: Path, time_limit: float, solo: str | None = None, mute: str | None = None
) -> tuple[Score, tuple[str, ...]]:
    from musiclora.symbolic.formats.score_arrays import unpack_score

    answer = _ask_child(source, {"kind": "score", "solo": solo, "mute": mute}, "", time_limit)
    with _well_formed(source):
        return unpack_score(answer["score"]), tuple(map(str, answer["remarks"]))


@contextmanager
def _well_formed(source: Path) -> Iterator[None]:
    """Turn an answer of another form, which a hostile file may cause, into an error of the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{source}: crashed the process that reads it") from error


def _ask_child(source: Path, task: dict[str, Any], soundfont: str, time_limit: float) -> dict[str, Any]:
    """Run one task of `render_worker` on a file.

    Raises:
        ConfigError: `solo` or `mute` of the task name no part of the song.
        DataError: the file is missing or of another kind, or the child process fails or exceeds the time limit.
    """
    check_readable(source)
    is_sound = task["kind"] == "sound"
    with scratch_folder() as folder:
        child = Child(RENDER_WORKER, None, str(folder))
        try:
            answer = child.ask({**task, "source": str(source.resolve())}, time_limit)
        except ChildLost as error:
            late = f"stopped after {time_limit:.0f} s; the file may be damaged"
            crashed = f"{'the synthesiser' if is_sound else 'the reader'} crashed"
            raise DataError(f"{source}: {late if error.late else crashed}") from error
        finally:
            child.kill()
    if not isinstance(answer, dict):
        raise DataError(f"{source}: crashed the process that reads it")
    if answer.get("option"):
        raise ConfigError(f"{source}: {answer.get('error')}")
    if answer.get("soundfont"):
        raise DataError(f"{soundfont}: {answer.get('error')}; give another with --soundfont")
    if "error" in answer:
        raise DataError(f"{source}: cannot be {'played' if is_sound else 'read'}: {answer['error']}")
    return answer
