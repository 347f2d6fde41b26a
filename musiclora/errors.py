"""All exceptions, re-exported from the lowest layer."""

from musiclora.convert.errors import (
    BackendError,
    ConfigError,
    ConvertError,
    DataError,
    MusicLoraError,
    TrainingError,
    listed,
)

__all__ = ["BackendError", "ConfigError", "ConvertError", "DataError", "MusicLoraError", "TrainingError", "listed"]
