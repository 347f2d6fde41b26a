"""Facts about this machine and about a base model, for `musiclora doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from musiclora import __version__
from musiclora.backends.registry import BACKENDS, choose, probe
from musiclora.errors import BackendError, DataError
from musiclora.families import resolve, spec_of_folder
from musiclora.models import find_model
from musiclora.symbolic.render import find_soundfont

ModelFacts = Callable[[Path], dict[str, Any]]  # layout and size of a model folder; one for each architecture


def memory_bytes() -> int | None:
    """Return the physical memory; None where the system does not tell."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def machine_facts() -> dict[str, Any]:
    """Collect versions, processor, memory, backends, the backend that `auto` takes, and sound programs."""
    try:
        auto: str | None = choose("auto")
    except BackendError:
        auto = None
    try:
        soundfont: str | None = str(find_soundfont(None))
    except DataError:
        soundfont = None
    return {
        "musiclora": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory": memory_bytes(),
        "backends": {name: dict(probe(name)) for name in BACKENDS},
        "auto": auto,
        "soundfont": soundfont,
        "fluidsynth": shutil.which("fluidsynth"),
    }


def model_facts(name: str) -> dict[str, Any]:
    """Collect path, licence, layout and size of a base model.

    Raises:
        ConfigError, ConvertError: it cannot be found, or its architecture is not known.
    """
    base = find_model(name)
    facts: ModelFacts = resolve(spec_of_folder(base.path).model_facts)
    return {"name": base.name, "path": str(base.path), "licence": base.licence, **facts(base.path)}


def backend_line(name: str, facts: dict[str, Any]) -> str:
    """Describe one backend in a line."""
    if "error" in facts:
        return f"{name}: cannot start: {facts['error']} (pip install 'musiclora[{name}]')"
    known = {key: value for key, value in facts.items() if key not in ("device", "name") and value is not None}
    rest = ", ".join(f"{key} {value}" for key, value in known.items())
    slow = facts["device"] == "cpu" and "blas" in facts and "blas" not in known and platform.system() == "Linux"
    warning = "; warning: without a fast BLAS it is 25 to 60 times slower" if slow else ""
    return f"{name}: {facts['device']} ({facts.get('name', '')}); {rest}{warning}"
