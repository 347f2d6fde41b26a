"""Audio models under test: the recorded original in its three forms, and toys in other shapes."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import acestep_toy
import pytest
from acestep_toy import make_toy
from audio_toys import CONFIGS, GOLDEN, write_toy
from require import REQUIRED

from musiclora.backends.base import FAMILIES
from musiclora.convert.models.diffrhythm import read_diffrhythm, write_diffrhythm


@pytest.fixture(scope="session")
def flow_backend(backend):
    """The backend, where it has the audio family; one that MUSICLORA_TEST_BACKENDS names must have it."""
    if not find_spec(f"musiclora.backends.{backend.name}.diffrhythm"):
        (pytest.fail if backend.name in REQUIRED else pytest.skip)(f"{backend.name}: there is no audio model")
    return backend


@pytest.fixture(scope="session")
def original_folders(tmp_path_factory):
    """The recorded weights as our folders: the lengths 2048 and 6144, and 2048 with the causal attention of v1.0."""
    root, found = tmp_path_factory.mktemp("original"), {}
    for name, extra, causal in (("2048", False, None), ("6144", True, None), ("v1", False, True)):
        source = root / f"source-{name}"
        source.mkdir()
        files = ["config.json", "model.safetensors"] + ["duration_time_embed.safetensors"] * extra
        for file in files:
            shutil.copy(GOLDEN / "dit" / file, source)
        checkpoint = read_diffrhythm(source, causal=causal)
        write_diffrhythm(root / name, checkpoint.config, checkpoint.tensors(), "hf", "float32")
        found[name] = root / name
    return found


@pytest.fixture(scope="session")
def original(flow_backend, original_folders):
    """Give a model of the recorded weights, loaded once; it must not be changed."""
    loaded = {}

    def give(name):
        if name not in loaded:
            loaded[name] = flow_backend.load(FAMILIES["audio"], original_folders[name])
        return loaded[name]

    return give


@pytest.fixture(scope="session")
def flow_folders(tmp_path_factory):
    """A checkpoint folder for each toy, by name."""
    root = tmp_path_factory.mktemp("flow-toys")
    found = {name: write_toy(root / name, config) for name, config in CONFIGS.items()}
    return found | {name: acestep_toy.write_toy(root / name, config) for name, config in acestep_toy.CONFIGS.items()}


@pytest.fixture(params=sorted(CONFIGS))
def flow_toy(request, flow_backend, flow_folders):
    """One DiffRhythm in one shape."""
    return make_toy(flow_backend, flow_folders, request.param)


@pytest.fixture
def flow_one(flow_backend, flow_folders):
    """The DiffRhythm with every part, for properties that do not depend on shapes."""
    return make_toy(flow_backend, flow_folders, "rectangular")


@pytest.fixture(params=[*sorted(CONFIGS), "acestep-biased", "acestep-xl"])
def any_toy(request, flow_backend, flow_folders):
    """One toy of either architecture in one shape."""
    return make_toy(flow_backend, flow_folders, request.param)


@pytest.fixture(params=["rectangular", "acestep-rectangular"])
def any_one(request, flow_backend, flow_folders):
    """One toy of each architecture, for properties that do not depend on shapes."""
    return make_toy(flow_backend, flow_folders, request.param)


@pytest.fixture(params=sorted(acestep_toy.CONFIGS))
def acestep(request, flow_backend, flow_folders):
    """One ACE-Step in one shape."""
    return make_toy(flow_backend, flow_folders, request.param)


@pytest.fixture
def acestep_one(flow_backend, flow_folders):
    """One ACE-Step, for properties that do not depend on shapes."""
    return make_toy(flow_backend, flow_folders, "acestep-rectangular")
