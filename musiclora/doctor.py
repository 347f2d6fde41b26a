"""What this machine can do, and what is in a folder of music."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

from musiclora import __version__
from musiclora.backends.registry import BACKENDS, choose, probe
from musiclora.convert.models.diffrhythm import read_diffrhythm
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.errors import BackendError, DataError
from musiclora.families import family_of
from musiclora.models import BaseModel, find_model
from musiclora.symbolic.render import find_soundfont


def memory_bytes() -> int | None:
    """Physical memory; None where the system does not tell."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def machine_facts() -> dict[str, Any]:
    """Versions, processor, memory, backends and the one `auto` takes, sound."""
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
    """Path, licence and size of a base model.

    Raises:
        ConfigError, ConvertError: it cannot be found, or is neither a GPT-2 nor a DiffRhythm.
    """
    base = find_model(name)
    if family_of(base.path) == "audio":
        return _audio_facts(base)
    checkpoint = read_checkpoint(base.path)
    c = checkpoint.config
    return {
        "name": base.name,
        "path": str(base.path),
        "licence": base.licence,
        "layout": checkpoint.layout,
        "vocab_size": c.vocab_size,
        "n_positions": c.n_positions,
        "n_embd": c.n_embd,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
    }


def _audio_facts(base: BaseModel) -> dict[str, Any]:
    found = read_diffrhythm(base.path)
    c = found.config
    return {
        "name": base.name,
        "path": str(base.path),
        "licence": base.licence,
        "max_frames": c.max_frames,
        "dim": c.dim,
        "depth": c.depth,
        "causal": c.causal,
        "codec": "vae" if (base.path / "vae").is_dir() else None,
    }


def backend_line(name: str, facts: dict[str, Any]) -> str:
    """One backend in words."""
    if "error" in facts:
        return f"{name}: cannot start: {facts['error']} (pip install 'musiclora[{name}]')"
    known = {key: value for key, value in facts.items() if key not in ("device", "name") and value is not None}
    rest = ", ".join(f"{key} {value}" for key, value in known.items())
    slow = facts["device"] == "cpu" and "blas" in facts and "blas" not in known and platform.system() == "Linux"
    warning = "; warning: without a fast BLAS it is 25 to 60 times slower" if slow else ""
    return f"{name}: {facts['device']} ({facts.get('name', '')}); {rest}{warning}"


def default_cache(path: Path) -> str:
    """A path with the home folder shortened, for people."""
    home = str(Path.home())
    return str(path).replace(home, "~", 1) if str(path).startswith(home) else str(path)
