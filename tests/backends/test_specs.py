"""Records of the backends: preference of `auto`, architectures, and what a further backend takes."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from musiclora.backends import loading, registry, specs
from musiclora.backends.base import FAMILIES
from musiclora.backends.specs import BACKENDS, BackendSpec
from musiclora.convert.errors import BackendError
from musiclora.families import SPECS

THIRD = BackendSpec(
    name="third",
    modules=("json",),
    extra="third",
    backend="third_backend",
    devices={"npu": 5},
    models={
        "gpt2": "third_backend:Gpt2",
        "diffrhythm": "third_backend:Flow",
        "acestep": "third_backend:Song.from_folder",
    },
    codecs={"oobleck": "third_backend:Codec"},
)
SOURCE = """
class Gpt2: pass
class Flow: pass
class Song:
    @classmethod
    def from_folder(cls): pass
class Codec: pass
BACKEND = "the third"
def describe(): return {"device": "npu"}
"""


@pytest.fixture
def third(monkeypatch, tmp_path):
    """A further backend: one module on the path and one record."""
    (tmp_path / "third_backend.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    records = {**BACKENDS, "third": THIRD}
    for module in (specs, registry):
        monkeypatch.setattr(module, "BACKENDS", records)
    registry.probe.cache_clear()
    yield THIRD
    registry.probe.cache_clear()
    sys.modules.pop("third_backend", None)


def test_the_preference_is_the_documented_one():
    expected = [
        ("mlx", "metal"),
        ("torch", "cuda"),
        ("mlx", "cuda"),
        ("torch", "mps"),
        ("torch", "cpu"),
        ("mlx", "cpu"),
    ]
    assert specs.preference_order() == expected


def test_the_records_load_the_standard_library_only():
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('specs', {specs.__file__!r})\n"
        "sys.modules['specs'] = module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'mlx', 'torch', 'musiclora'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("spec", BACKENDS.values(), ids=BACKENDS)
def test_every_architecture_of_a_family_has_its_module_in_every_backend(spec):
    assert {a for family in FAMILIES.values() for a in family.architectures} == set(spec.models)
    for reference in [spec.backend, *spec.models.values(), *spec.codecs.values()]:
        module = reference.partition(":")[0]
        assert module.startswith(f"musiclora.backends.{spec.name}.")
        if registry.why_not(spec.name) is None:
            assert find_spec(module)


def test_the_architectures_are_those_of_the_family_records():
    for family in FAMILIES.values():
        assert [s.architecture for s in SPECS if s.family == family.name] == list(family.architectures)


@pytest.mark.usefixtures("third")
def test_a_further_backend_takes_one_module_and_one_record():
    assert registry.why_not("third") is None
    assert registry.choose() == "third"
    assert registry.get_backend("third") == "the third"


@pytest.mark.parametrize(
    ("family", "config", "expected"),
    [
        ("symbolic", {"model_type": "gpt2"}, "Gpt2"),
        ("audio", {"model_type": "diffrhythm"}, "Flow"),
        ("symbolic", {}, "Gpt2"),
        ("audio", None, "Flow"),
        ("symbolic", {"model_type": "diffrhythm"}, "Gpt2"),  # whose reader says what is wrong
    ],
    ids=["gpt2", "diffrhythm", "says_nothing", "no_config", "another_family"],
)
def test_the_class_is_chosen_by_the_model_type(third, tmp_path, family, config, expected):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert loading.find_model_class(third, FAMILIES[family], tmp_path).__name__ == expected


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"model_type": "acestep"}),
        ("model_index.json", {"_class_name": "AceStepPipeline"}),
        ("acestep-v15-turbo/config.json", {"model_type": "acestep"}),
    ],
    ids=["model", "pipeline", "around_the_model"],
)
def test_acestep_is_recognised_in_every_kind_of_folder(third, tmp_path, file, content):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(content))
    assert loading.find_model_class(third, FAMILIES["audio"], tmp_path).__name__ == "from_folder"


def test_a_bare_file_is_of_the_familys_first_architecture(third, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    assert loading.find_model_class(third, FAMILIES["audio"], tmp_path / "model.pt").__name__ == "Flow"


def test_the_codec_is_found_in_the_audio_models_folder(third, tmp_path):
    assert loading.find_codec(third, tmp_path)[1] == tmp_path
    (tmp_path / "vae").mkdir()
    found, path = loading.find_codec(third, tmp_path)
    assert (found.__name__, path) == ("Codec", tmp_path / "vae")


def test_an_architecture_that_a_backend_lacks_raises_and_names_those_it_has(tmp_path):
    bare = BackendSpec("bare", (), "bare", "bare", {}, {"other": "m:C"}, {})
    with pytest.raises(BackendError, match="bare: the architecture 'gpt2' is not offered; there are other"):
        loading.find_model_class(bare, FAMILIES["symbolic"], tmp_path)


def test_an_unknown_dtype_raises_and_names_those_there_are():
    with pytest.raises(BackendError, match="mlx: dtype 'float8' is not offered; there are float32"):
        loading.find_dtype(specs.MLX, "float8", {"float32": 1})
