"""Fixtures of all backend tests: the backend under test, and toy models that numpy writes."""

from __future__ import annotations

import os

import numpy as np
import pytest
from require import REQUIRED
from toys import CONFIGS, Toy, formula_tensors

from musiclora.backends import registry
from musiclora.convert.models.gpt2 import write_checkpoint

os.environ.setdefault("MUSICLORA_COMPILE", "off")  # compiling a toy takes longer than every test of it
# White-box tests of a backend that is not installed cannot be imported; one that is required fails there. (Folders
# called torch and mlx would be found as packages of these names, since this folder is on sys.path.)
collect_ignore_glob = [f"on_{name}/*" for name in registry.BACKENDS if name not in REQUIRED and registry.why_not(name)]


@pytest.fixture(scope="session", params=registry.BACKENDS)
def backend(request):
    if reason := registry.why_not(request.param):
        (pytest.fail if request.param in REQUIRED else pytest.skip)(f"{request.param}: {reason}")
    return registry.get_backend(request.param)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A checkpoint folder for each toy, by name."""
    root = tmp_path_factory.mktemp("toys")
    for name, config in CONFIGS.items():
        write_checkpoint(root / name, config, formula_tensors(config), "hf")
    return {name: root / name for name in CONFIGS}


@pytest.fixture(params=sorted(CONFIGS))
def toy(request, backend, folders):
    """One toy model in one shape: everything a property needs to be stated."""
    return Toy(backend, folders[request.param], CONFIGS[request.param])


@pytest.fixture
def square(backend, folders):
    """The toy whose matrices are square, for properties that do not depend on shapes."""
    return Toy(backend, folders["square"], CONFIGS["square"])


@pytest.fixture
def rng():
    return np.random.default_rng(7)
