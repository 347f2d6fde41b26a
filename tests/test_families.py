"""The records of model families: every reference resolves, and folders and adapters find their record."""

from __future__ import annotations

import dataclasses

import pytest

from musiclora.bundled import BUNDLED_MODELS
from musiclora.errors import ConfigError, ConvertError
from musiclora.families import (
    DIFFRHYTHM,
    FAMILIES,
    GPT2,
    SPECS,
    family_of,
    refuse_foreign,
    resolve,
    spec_of_folder,
    spec_of_modules,
)

REFERENCES = [
    pytest.param(value, id=f"{spec.architecture}-{field.name}")
    for spec in SPECS
    for field in dataclasses.fields(spec)
    if isinstance(value := getattr(spec, field.name), str) and ":" in value
]


@pytest.mark.parametrize("reference", REFERENCES)
def test_every_reference_of_a_record_resolves(reference):
    found = resolve(reference)
    assert callable(found) or (reference.startswith("musiclora.audio.") and hasattr(found, "read_shape"))


def test_records_belong_to_families_of_the_interface_and_name_each_architecture_once():
    assert {spec.family for spec in SPECS} == set(FAMILIES)
    assert len({spec.architecture for spec in SPECS}) == len(SPECS)


def test_bundled_folders_find_their_record():
    found = {name: spec_of_folder(path).architecture for name, path in BUNDLED_MODELS.items()}
    assert found == {"bundled": "gpt2", "bundled-band": "gpt2", "bundled-audio": "diffrhythm"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "llama"}'], ids=["none", "bad", "list", "other"])
def test_a_folder_that_says_nothing_counts_as_the_first_record(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    assert family_of(tmp_path) == SPECS[0].family


@pytest.mark.parametrize(
    ("module", "architecture"),
    [
        ("transformer.h.0.attn.c_attn", "gpt2"),
        ("transformer_blocks.0.self_attn.q_proj", "diffrhythm"),
    ],
)
def test_modules_of_an_adapter_find_their_record(module, architecture):
    assert spec_of_modules([module], "a").architecture == architecture


@pytest.mark.parametrize(
    "module", ["model.layers.0.self_attn.q_proj", "transformer.h.0.attn.q_proj", "h.0.attn.c_attn"]
)
def test_an_adapter_of_another_architecture_belongs_to_no_record(module):
    with pytest.raises(ConvertError, match=f"architecture that is not known here; it adapts {module}"):
        spec_of_modules([module], "a")


def test_options_of_another_family_are_refused_by_name_all_at_once():
    with pytest.raises(ConfigError, match=r"--seconds, --repaint: for models of the audio family only"):
        refuse_foreign(GPT2, "m", {"seconds": 3.0, "repaint": ((0, 1),), "top_k": 5, "steps": None})
    refuse_foreign(DIFFRHYTHM, "m", {"seconds": 3.0, "top_k": None, "prompt": None})
