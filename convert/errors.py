"""Exceptions of the package.

MusicLoraError
├── ConfigError    a wrong option, key or combination of them
├── DataError      music, tokens or recordings that cannot be used
├── BackendError   a backend that is missing or cannot do the request
├── ConvertError   a checkpoint or adapter file that does not fit
├── OutputError    a file or folder that cannot be written
└── TrainingError  a run that cannot go on (non-finite loss, a lock, a full disk)
"""

from __future__ import annotations

import json
from collections.abc import Sequence

LONGEST_MESSAGE = 3000  # characters
LONGEST_WORD = 400  # paths are shorter, damaged names are not
_LONGEST_NAME = 80


class MusicLoraError(Exception):
    """Base of all errors with a text for the user; the command line prints it and exits with code 2.

    The text may quote file contents. It is made printable and short here, so that no message has to think of it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class ConfigError(MusicLoraError):
    """A wrong option, key or combination of them."""


class DataError(MusicLoraError):
    """Music, tokens or recordings that cannot be used."""


class BackendError(MusicLoraError):
    """A backend that is missing or cannot do the request."""


class ConvertError(MusicLoraError):
    """A checkpoint or adapter file that does not fit."""


class OutputError(MusicLoraError):
    """A file or folder that cannot be written."""


class TrainingError(MusicLoraError):
    """A training run that cannot go on."""


def list_names(names: Sequence[str], shown: int = 40) -> str:
    """Join the first names, each bounded in length, and count the rest."""
    first = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in names[:shown]]
    return ", ".join(first) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def option_name(name: str) -> str:
    """Return the option of a parameter, for messages: `--lora-r` for lora_r."""
    return "--" + name.replace("_", "-")


def join_problems(problems: list[str], shown: int = 5) -> str:
    """Join problems into one line: the first few by name, then a count of the rest."""
    more = len(problems) - shown
    listed = "; ".join(_cut_middle(problem, LONGEST_WORD) for problem in problems[:shown])
    return listed + (f"; and {more} more" if more > 0 else "")


def printable(text: str, longest: int = LONGEST_MESSAGE) -> str:
    r"""Make outside text safe for a terminal: control characters escaped, words and the whole cut in the middle.

    Line breaks and tabs stay; a lone surrogate becomes `\udc80`.
    """
    words = text.split(" ")
    if len(text) > LONGEST_WORD and any(len(word) > LONGEST_WORD for word in words):
        text = " ".join(_cut_middle(word, LONGEST_WORD) for word in words)
    text = _cut_middle(text, longest)
    return text if text.isprintable() else escape_controls(text, keep="\n\t")


def escape_controls(text: str, keep: str = "") -> str:
    """Escape control characters and the bytes of a file's name that are no UTF-8, but not those to keep."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def show_value(value: object, longest: int = 60) -> str:
    """Format a value of a JSON or TOML file for a message, as it stands there: text in quotes, null, true."""
    if isinstance(value, dict | list) and len(value) > 20:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)} entries"
    text = json.dumps(value[: 2 * longest] if isinstance(value, str) else value, ensure_ascii=False, default=str)
    return printable(_cut_middle(text, longest))


def _cut_middle(text: str, longest: int) -> str:
    """Shorten a text to its beginning and its end, with the number of characters left out."""
    if len(text) <= longest:
        return text
    head, tail = longest * 2 // 3, longest // 6
    return f"{text[:head]}...({len(text) - head - tail} more)...{text[-tail:]}"
