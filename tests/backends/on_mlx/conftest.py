"""Fixtures of the MLX tests: compilation is off, except where a test turns it on."""

from __future__ import annotations

import importlib.util
import os

import pytest
from require import REQUIRED

os.environ.setdefault("MUSICLORA_COMPILE", "off")

collect_ignore_glob = ["test_*.py"]
if "mlx" in REQUIRED or importlib.util.find_spec("mlx"):
    # Before any test module imports mlx.core, so that the fast BLAS is the one in use here.
    importlib.import_module("musiclora.backends.mlx")
    collect_ignore_glob = []


@pytest.fixture(autouse=True)
def configured():
    """Settings as Backend.load makes them."""
    from musiclora.backends.mlx import device

    device.configure()


@pytest.fixture
def compiled():
    """Compiling on, for one test."""
    import mlx.core as mx

    mx.enable_compile()
    yield
    mx.disable_compile()
