"""Choices that every backend makes alike when it loads a checkpoint: class, dtype, and the codec's folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from musiclora.backends.base import Codec, ConditionEncoder, Family, Model, TextEncoder
from musiclora.backends.specs import BackendSpec, resolve_class
from musiclora.convert.errors import BackendError, ConvertError
from musiclora.convert.files.json_file import read_json
from musiclora.convert.models.acestep_folders import is_acestep_folder
from musiclora.convert.models.acestep_json import MODEL_TYPE as ACESTEP

_DType = TypeVar("_DType")


def find_dtype(backend: BackendSpec, name: str, offered: Mapping[str, _DType]) -> _DType:
    """Look up a backend's dtype by its name.

    Raises:
        BackendError: the backend does not offer it.
    """
    if name not in offered:
        raise BackendError(f"{backend.name}: dtype {name!r} is not offered; there are {', '.join(offered)}")
    return offered[name]


def find_model_class(backend: BackendSpec, family: Family, checkpoint: Path) -> Callable[..., Model]:
    """Import the class of a checkpoint's architecture.

    A folder that names none of the family's architectures counts as the first of them, whose reader then says what
    is wrong. So does a single file, which has no config.json.

    Raises:
        BackendError: the backend does not have this architecture.
    """
    found = _declared_architecture(checkpoint)
    architecture = found if found in family.architectures else family.architectures[0]
    if architecture not in backend.models:
        raise BackendError(
            f"{backend.name}: the architecture {architecture!r} is not offered; there are {', '.join(backend.models)}"
        )
    model_class: Callable[..., Model] = resolve_class(backend.models[architecture])
    return model_class


def find_codec(backend: BackendSpec, checkpoint: Path) -> tuple[Callable[..., Codec], Path]:
    """Import the class of a codec, and find its folder or file.

    Args:
        backend: record of the backend.
        checkpoint: the codec's folder or file, or an audio model's folder that holds it as `vae`.
    """
    inner = checkpoint / "vae"
    path = inner if inner.is_dir() else checkpoint
    first = next(iter(backend.codecs))
    return resolve_class(backend.codecs.get(_declared_architecture(path), backend.codecs[first])), path


def find_text_encoder(backend: BackendSpec, folder: Path) -> Callable[..., TextEncoder]:
    """Import the class of a text encoder.

    A folder that names no architecture counts as the first of them, whose reader then says what is wrong.

    Raises:
        BackendError: the backend has none.
    """
    return _part_class(backend, backend.text_encoders, _declared_architecture(folder))


def find_condition_encoder(backend: BackendSpec, checkpoint: Path) -> Callable[..., ConditionEncoder]:
    """Import the class of a model's condition encoder; likewise."""
    return _part_class(backend, backend.condition_encoders, _declared_architecture(checkpoint))


def _part_class(backend: BackendSpec, classes: Mapping[str, str], architecture: str) -> Callable[..., Any]:
    if not classes:
        raise BackendError(f"{backend.name}: encoders of texts are not offered")
    found: Callable[..., Any] = resolve_class(classes.get(architecture, next(iter(classes.values()))))
    return found


def needs_package(what: str, package: str, extra: str, error: ImportError) -> BackendError:
    """Describe a package that a part of a model needs and that is not installed or too old."""
    missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == package
    reason = f"needs {package}" if missing else f"cannot be loaded ({error})"
    return BackendError(f"{what} {reason}; try: pip install 'musiclora[{extra}]'")


def _declared_architecture(checkpoint: Path) -> str:
    """Read `model_type` of a folder's config.json; empty where it says nothing.

    A folder without one may hold ACE-Step as a pipeline, or around the model's own folder.
    """
    try:
        return str(read_json(checkpoint / "config.json").get("model_type", ""))
    except ConvertError:
        return ACESTEP if is_acestep_folder(checkpoint) else ""


def process_peak_bytes() -> int:
    """Measure the peak resident memory of this process; 0 on Windows, which does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    unit_bytes = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
