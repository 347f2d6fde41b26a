"""Keys of a model's config.json that a copy keeps although nothing here reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_OF_THE_FILE = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "model_type",
    "quantization",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
)


def settings_besides(config: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Collect the keys of a model's config.json that a copy keeps although nothing here reads them.

    Paths, versions, and descriptions of how the weights are stored belong to the file that they were read from.

    Args:
        config: its content.
        known: keys that are written from what was read.
    """
    return {key: value for key, value in config.items() if key not in known and key not in _OF_THE_FILE}


def add_further(own: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Add another mapping's further keys behind one's own, so that a copy of a copy is the same file."""
    return {**own, **{key: value for key, value in other.items() if key not in own}}
