"""The records of model families: every reference resolves, and folders and adapters find their record."""

from __future__ import annotations

import dataclasses
import json

import pytest

from musiclora.bundled import BUNDLED_MODELS
from musiclora.errors import ConfigError, ConvertError
from musiclora.families import (
    ACESTEP,
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


def test_options_of_another_architecture_of_the_family_are_refused_by_its_name():
    with pytest.raises(ConfigError, match=r"^--lyrics, --bpm: for ACE-Step only, and m is DiffRhythm$"):
        refuse_foreign(DIFFRHYTHM, "m", {"lyrics": "la", "bpm": 90, "seconds": 3.0})
    with pytest.raises(ConfigError, match=r"^--style: for DiffRhythm only, and m is ACE-Step$"):
        refuse_foreign(ACESTEP, "m", {"style": "x.npy", "caption": "a waltz"})
    with pytest.raises(ConfigError, match=r"^--temperature: for models of the symbolic family only"):
        refuse_foreign(ACESTEP, "m", {"temperature": 1.0, "style": "x.npy"})
    refuse_foreign(ACESTEP, "m", {"caption": "a waltz", "seconds": 3.0, "guidance": 7.0})


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("config.json", {"model_type": "acestep"}, ACESTEP),
        ("acestep-v15-turbo/config.json", {"model_type": "acestep"}, ACESTEP),
        ("model_index.json", {"_class_name": "AceStepPipeline"}, ACESTEP),
        ("model_index.json", {"_class_name": "AnotherPipeline"}, GPT2),
        ("config.json", {"model_type": "diffrhythm"}, DIFFRHYTHM),
        ("config.json", {}, GPT2),
        ("config.json", {"model_type": "qwen3"}, ACESTEP),  # its text encoder, which its reader refuses by name
        ("config.json", {"model_type": "llama"}, GPT2),
    ],
    ids=[
        "model",
        "around a model",
        "pipeline",
        "another pipeline",
        "diffrhythm",
        "says nothing",
        "text encoder",
        "unknown",
    ],
)
def test_a_folder_is_recognised_by_what_it_states(tmp_path, file, content, expected):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(content))
    assert spec_of_folder(tmp_path) is expected
