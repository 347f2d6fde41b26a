"""Qwen3 text encoders: names with and without prefix, sizes of old and new config.json, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from acestep_folder import VOCABULARY, tensor, text_encoder_shapes, write_text_encoder

from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import write_safetensors
from musiclora.convert.models.qwen3 import read_qwen3

WIDTH = 16


@pytest.fixture
def folder(tmp_path):
    return write_text_encoder(tmp_path / "text", WIDTH)


def change(folder, **settings):
    """Change keys of config.json; None removes one."""
    content = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def replace(folder, tensors):
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})


def weights():
    return {name: tensor(f"text.{name}", shape) for name, shape in text_encoder_shapes(WIDTH).items()}


def test_every_tensor_is_read_under_its_name(folder):
    checkpoint = read_qwen3(folder)
    found = dict(checkpoint.tensors())
    assert (checkpoint.config.vocabulary, checkpoint.config.hidden) == (VOCABULARY, WIDTH)
    assert sorted(found) == sorted(weights())
    for name, value in weights().items():
        np.testing.assert_array_equal(found[name], value)


def test_a_language_models_prefix_and_head_are_taken_off(folder):
    named = {f"model.{name}": value for name, value in weights().items()}
    head = {"lm_head.weight": np.ones((VOCABULARY, WIDTH), np.float32)}
    replace(folder, {**named, **head})
    checkpoint = read_qwen3(folder)
    assert sorted(dict(checkpoint.tensors())) == sorted(weights())
    assert list(checkpoint.dropped) == ["lm_head.weight"]


def test_rope_theta_is_read_where_new_versions_of_transformers_keep_it(folder):
    change(folder, rope_theta=None, rope_parameters={"rope_theta": 5000.0, "rope_type": "default"})
    assert read_qwen3(folder).config.rope_theta == 5000.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model_type": "bert"}, 'model_type is "bert", expected qwen3'),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling is set, which is not supported"),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn"}}, "rope_scaling is set"),
        ({"attention_bias": True}, "attention_bias is set"),
        ({"use_sliding_window": True}, "use_sliding_window is set"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads"),
        ({"vocab_size": None}, "vocab_size"),
        ({"hidden_size": 17}, "the tensors do not fit the configuration"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused_by_name(folder, settings, expected):
    change(folder, **settings)
    with pytest.raises(ConvertError) as error:
        read_qwen3(folder)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_surplus_tensors_are_named_together(folder):
    tensors = weights()
    del tensors["layers.1.mlp.up_proj.weight"]
    replace(folder, {**tensors, "extra": np.ones(2, np.float32)})
    with pytest.raises(ConvertError, match=r"extra.*layers\.1\.mlp\.up_proj\.weight is missing"):
        read_qwen3(folder)


def test_half_of_the_shards_is_one_line(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = dict.fromkeys(weights(), "model-00001-of-00002.safetensors")
    names["norm.weight"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(ConvertError, match="1 of 2 files are missing"):
        read_qwen3(folder)
