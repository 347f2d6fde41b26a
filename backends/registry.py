"""Which backends there are, whether each can run here, and which one `auto` takes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from musiclora.backends.base import FAMILIES
from musiclora.convert.errors import BackendError

if TYPE_CHECKING:
    from musiclora.backends.base import Backend

__all__ = ["BACKENDS", "FAMILIES", "choose", "get_backend", "probe", "why_not"]

BACKENDS = ("mlx", "torch")
_NEEDS = {"mlx": ("mlx",), "torch": ("torch", "peft", "transformers")}

# The order in which `auto` takes what it finds: (backend, kind of device).
_PREFERENCE = (("mlx", "metal"), ("torch", "cuda"), ("mlx", "cuda"), ("torch", "mps"), ("torch", "cpu"), ("mlx", "cpu"))


@cache
def probe(name: str) -> dict[str, Any]:
    """Import a backend in a subprocess and report {device: metal|cuda|mps|cpu, ...} or {error: reason}.

    A subprocess, because a framework that is half installed fails late or takes the process with it: a plain
    `pip install mlx` on Linux is found by find_spec and then fails on libmlx.so.
    """
    missing = [m for m in _NEEDS[name] if importlib.util.find_spec(m) is None]
    if missing:
        return {"error": f"{', '.join(missing)} not installed"}
    code = f"import json; from musiclora.backends.{name} import backend; print(json.dumps(backend.describe()))"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"import ended with code {done.returncode}"}
    return cast(dict[str, Any], json.loads(done.stdout.strip().splitlines()[-1]))


def why_not(name: str) -> str | None:
    """Why a backend cannot run here, in a few words; None when it can."""
    if name not in BACKENDS:
        return f"there is no backend called {name!r}; there are {', '.join(BACKENDS)}"
    return probe(name).get("error")


def choose(name: str = "auto") -> str:
    """Resolve `auto` to the first usable backend; an explicit name is never replaced.

    Raises:
        BackendError: the backend asked for, or every backend, cannot run; with the command that would install it.
    """
    if name != "auto":
        if reason := why_not(name):
            raise BackendError(f"backend {name!r} cannot start: {reason}; try: pip install 'musiclora[{name}]'")
        return name
    for backend, device in _PREFERENCE:
        if probe(backend).get("device") == device:
            return backend
    reasons = "; ".join(f"{n}: {why_not(n)}" for n in BACKENDS)
    raise BackendError(f"no backend can start ({reasons}); try: pip install 'musiclora[torch]' or 'musiclora[mlx]'")


def get_backend(name: str) -> Backend:
    """Import one backend and return it.

    Raises:
        BackendError: it cannot run here.
    """
    if name not in BACKENDS or any(importlib.util.find_spec(m) is None for m in _NEEDS[name]):
        choose(name)
    try:
        module = importlib.import_module(f"musiclora.backends.{name}.backend")
    except ImportError as error:
        raise BackendError(f"backend {name!r} cannot start: {error}; try: pip install 'musiclora[{name}]'") from error
    return cast("Backend", module.BACKEND)
