"""Import what an extra brings: skipped where it is not installed, an error where everything must be."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

import pytest

# The backends that must not be missing. Where both must not, all extras are installed, and nothing they bring may be.
REQUIRED = {name for name in os.environ.get("MUSICLORA_TEST_BACKENDS", "").split(",") if name}
EVERYTHING = {"mlx", "torch"} <= REQUIRED


def missing(what: str) -> None:
    """Skip the test or module, or fail where every extra is required."""
    if EVERYTHING:
        pytest.fail(f"{what} is missing, and MUSICLORA_TEST_BACKENDS asks for everything", pytrace=False)
    pytest.skip(f"{what} is not installed", allow_module_level=True)


def require(module: str) -> Any:
    """Import a module as pytest.importorskip does, but fail where every extra is required."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own and its dependencies' deprecations
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and something that it needs is not
        return missing(module)
