"""Selection of a backend: availability on this machine, `auto`, and import."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from musiclora.backends.base import FAMILIES
from musiclora.backends.specs import BACKENDS, install_hint, preference_order
from musiclora.convert.errors import BackendError, ConvertError
from musiclora.convert.files.json_file import OBJECT, parse_json

if TYPE_CHECKING:
    from musiclora.backends.base import Backend

__all__ = ["BACKENDS", "FAMILIES", "choose", "get_backend", "probe", "why_not"]

_PROBE = "import importlib, json; print(json.dumps(importlib.import_module({module!r}).describe()))"
_PROBE_SECONDS = 180


@cache
def probe(name: str) -> dict[str, Any]:
    """Import a backend in a subprocess and report {device: metal|cuda|mps|cpu, ...} or {error: reason}.

    A subprocess, because a framework that is half installed fails late or ends the process: a plain
    `pip install mlx` on Linux is found by find_spec and then fails on libmlx.so.
    """
    if missing := _missing_modules(name):
        return {"error": f"{', '.join(missing)} not installed"}
    command = [sys.executable, "-c", _PROBE.format(module=BACKENDS[name].backend)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"import ended with code {done.returncode}"}
    last_line = done.stdout.strip().rpartition("\n")[2]  # a framework may greet before it
    try:
        return cast(dict[str, Any], parse_json(last_line, f"the description of {name}", OBJECT))
    except ConvertError as error:
        return {"error": str(error)}


def _missing_modules(name: str) -> list[str]:
    return [module for module in BACKENDS[name].modules if importlib.util.find_spec(module) is None]


def why_not(name: str) -> str | None:
    """Explain in a few words why a backend cannot run here; None when it can."""
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
            hint = install_hint(name) if name in BACKENDS else f"--backend {next(iter(BACKENDS))}"
            raise BackendError(f"backend {name!r} cannot start: {reason}; try: {hint}")
        return name
    for backend, device in preference_order():
        if probe(backend).get("device") == device:
            return backend
    reasons = "; ".join(f"{n}: {why_not(n)}" for n in BACKENDS)
    raise BackendError(f"no backend can start ({reasons}); try: {install_hint(*BACKENDS)}")


def get_backend(name: str) -> Backend:
    """Import one backend and return it.

    Raises:
        BackendError: it cannot run here.
    """
    if name not in BACKENDS or _missing_modules(name):
        choose(name)
    try:
        module = importlib.import_module(BACKENDS[name].backend)
    except ImportError as error:
        raise BackendError(f"backend {name!r} cannot start: {error}; try: {install_hint(name)}") from error
    return cast("Backend", module.BACKEND)
