"""JSON objects in files: configurations and records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from musiclora.convert.errors import ConvertError

MAX_JSON_BYTES = 50_000_000


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConvertError: missing, unreadable, too large or not an object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ConvertError(f"{path}: {path.stat().st_size} bytes are too many for a configuration")
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConvertError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConvertError(f"{path} holds no JSON object")
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one where there is no such file.

    Raises:
        ConvertError: unreadable, too large or not an object.
    """
    return read_json(path) if path.is_file() else {}
