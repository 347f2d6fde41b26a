"""All exceptions, re-exported from the lowest layer."""

from musiclora.convert.errors import (
    BackendError,
    ConfigError,
    ConvertError,
    DataError,
    MusicLoraError,
    OutputError,
    TrainingError,
    join_problems,
    list_names,
    option_name,
)

__all__ = [
    "BackendError",
    "ConfigError",
    "ConvertError",
    "DataError",
    "MusicLoraError",
    "OutputError",
    "TrainingError",
    "join_problems",
    "list_names",
    "option_name",
]
