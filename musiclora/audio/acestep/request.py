"""Options of ACE-Step's generation: checked, and brought into the form that its prompts have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from musiclora.audio.acestep.lyrics import read_lyrics
from musiclora.audio.flow_sampling import MOST_STEPS, PieceRequest, request_problems
from musiclora.errors import ConfigError, option_name
from musiclora.formats import expand_home
from musiclora.generation_result import options_outside

# Options that say what the music is; they need the text encoder.
WORD_OPTIONS = ("caption", "lyrics", "bpm", "key", "time_signature", "language", "reference")
_BOUNDS = {"steps": (1, MOST_STEPS), "guidance": (1, 1000), "shift": (0.01, 100), "bpm": (1, 1000)}
_KEY = re.compile(r"([A-Ga-g])[ ]?([#b\u266f\u266d]?)[ ]?(major|minor|maj|min|m|)", re.IGNORECASE)
_MINOR, _SIGNS = ("minor", "min", "m"), {"\u266f": "#", "\u266d": "b"}
_METRE = re.compile(r"(\d{1,2})(?:/(\d{1,2}))?")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z]{2,8})?|unknown")
_TEXT_SUFFIXES = (".txt", ".lrc", ".md")
_LONGEST_NAME = 255  # bytes; a longer text is no file


@dataclass(frozen=True)
class AceStepRequest:
    """Options of ACE-Step's generation, named as in the command.

    Attributes:
        seconds: length; None is the recording's for repainting, 30 s more than it for continuing, else 30 s.
        steps: Euler steps; None for the checkpoint's.
        guidance: the usual scale of classifier-free guidance, 1 for none; None for the checkpoint's.
        shift: moves steps towards noise; None for the checkpoint's.
        seed: piece i of one seed is the same for every count.
        count: number of pieces.
        caption: description of the music; None is the adapters' where they state one.
        lyrics: a text file, or the words themselves.
        bpm: quarter notes a minute.
        key: such as `C major` or `F#m`.
        time_signature: such as `4/4`.
        language: code of the sung language; None is English.
        reference: recording whose timbre is taken.
        init_audio: recording to continue or to repaint.
        repaint: (start, end) in seconds, -1 for the beginning or the end; empty continues the recording.
        vae: the codec; None is the one of the model.
    """

    seconds: float | None = None
    steps: int | None = None
    guidance: float | None = None
    shift: float | None = None
    seed: int = 42
    count: int = 1
    caption: str | None = None
    lyrics: str | None = None
    bpm: int | None = None
    key: str | None = None
    time_signature: str | None = None
    language: str | None = None
    reference: Path | None = None
    init_audio: Path | None = None
    repaint: tuple[tuple[float, float], ...] = ()
    vae: Path | None = None

    def __post_init__(self) -> None:
        given = [(name, *bounds) for name, bounds in _BOUNDS.items() if getattr(self, name) is not None]
        problems = [*options_outside(self, given), *request_problems(self)]
        if self.guidance is not None and 0 <= self.guidance < 1:
            problems[:] = [text for text in problems if not text.startswith("--guidance")]
            problems.append(f"--guidance is {self.guidance}; for ACE-Step it is the usual scale, where 1 is none")
        for name, read in (("key", read_key), ("time_signature", read_metre), ("language", read_language)):
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, None if value is None else read(value))
            except ValueError as error:
                problems.append(f"{option_name(name)} {value}: {error}")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def word_options(self) -> list[str]:
        """Options that say what the music is and were given, as the user writes them."""
        return [option_name(name) for name in WORD_OPTIONS if getattr(self, name) is not None]


def read_key(text: str) -> str:
    """Write a key as `C major` or `F# minor`.

    Raises:
        ValueError: it is none.
    """
    match = _KEY.fullmatch(text.strip())
    if not match:
        raise ValueError("expected a key such as 'C major', 'Bb major' or 'F# minor'")
    note, sign, scale = match.groups()
    small = scale == "M" or scale.lower() not in _MINOR
    return f"{note.upper()}{_SIGNS.get(sign, sign).lower()} {'major' if small else 'minor'}"


def read_metre(text: str) -> str:
    """Write a time signature as `4/4`; a number alone counts quarters, 6 eighths.

    Raises:
        ValueError: it is none.
    """
    match = _METRE.fullmatch(text.strip())
    if not match or not 1 <= int(match[1]) <= 16 or match[2] not in (None, "2", "4", "8", "16"):
        raise ValueError("expected a time signature such as 4/4, 3/4 or 6/8")
    return f"{int(match[1])}/{match[2] or ('8' if int(match[1]) == 6 else '4')}"


def read_language(text: str) -> str:
    """Write a language code in lower case.

    Raises:
        ValueError: it is none.
    """
    if not _LANGUAGE.fullmatch(text.strip()):
        raise ValueError("expected a code such as en, de, ja or zh, or unknown")
    return text.strip().lower()


def words_of(text: str) -> str:
    """Read the value of `--lyrics`: a file's text, or the words themselves.

    Raises:
        ConfigError: a folder, or the name of a file that is not there.
        DataError: the file is no text.
    """
    if len(text.encode(errors="replace")) > _LONGEST_NAME or "\n" in text or not text.strip():
        return text.strip()
    path = expand_home(text)
    if path.is_dir():
        raise ConfigError(f"--lyrics {text}: is a folder; give a text file, or the words themselves")
    if path.is_file():
        return read_lyrics(path)
    if path.exists():
        raise ConfigError(f"--lyrics {text}: is no regular file")
    if path.suffix.lower() in _TEXT_SUFFIXES:
        raise ConfigError(f"--lyrics {text}: there is no such file")
    return text.strip()


if TYPE_CHECKING:

    def _as_request(request: AceStepRequest) -> PieceRequest:
        return request
