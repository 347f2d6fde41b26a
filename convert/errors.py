"""Exceptions of the package.

MusicLoraError
├── ConfigError    a wrong option, key or combination of them
├── DataError      music, tokens or recordings that cannot be used
├── BackendError   a backend that is missing or cannot do the request
├── ConvertError   a checkpoint or adapter file that does not fit
├── OutputError    a file or folder that cannot be written
└── TrainingError  a run that cannot go on (non-finite loss, a lock, a full disk)
"""


class MusicLoraError(Exception):
    """Base of all errors with a text for the user; the command line prints it and exits with code 2."""


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


def join_problems(problems: list[str], shown: int = 5) -> str:
    """Join problems into one line: the first few by name, then a count of the rest."""
    more = len(problems) - shown
    return "; ".join(problems[:shown]) + (f"; and {more} more" if more > 0 else "")
