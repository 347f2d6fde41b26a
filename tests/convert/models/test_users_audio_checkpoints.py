"""Checkpoints of audio models as users have them: wrapped names, other dtypes, keys that must survive."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from musiclora.conversion.model import convert_model
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, read_diffrhythm
from musiclora.convert.models.oobleck import OobleckConfig, read_oobleck

DIFFRHYTHM = DiffRhythmConfig(32, 2, 2, text_dim=24, conv_layers=1, mel_dim=8, text_num_embeds=5)
OOBLECK = OobleckConfig(2, (1, 2), (2, 3), 4, 8, 1)
Tensors = dict[str, np.ndarray]


def same(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[n], second[n]) for n in first)


def diffrhythm_tensors(dtype: str = "float16") -> Tensors:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in DIFFRHYTHM.tensor_shapes().items()}


@pytest.mark.parametrize(
    "wrapper",
    ["module.transformer.", "cfm.transformer.", "_orig_mod.transformer.", "model.cfm.transformer.", "module."],
)
def test_names_of_wrappers_are_taken_off_diffrhythm(wrapper: str, tmp_path: Path) -> None:
    expected = diffrhythm_tensors()
    write_safetensors(tmp_path / "m.safetensors", {wrapper + name: array for name, array in expected.items()})
    assert same(dict(read_diffrhythm(tmp_path / "m.safetensors").tensors()), expected)


def test_float64_of_an_audio_model_becomes_float32_for_mlx(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m.safetensors", diffrhythm_tensors("float64"))
    convert_model(tmp_path / "m.safetensors", tmp_path / "mlx", "mlx")
    stored = read_safetensors(tmp_path / "mlx" / "model.safetensors")
    assert {array.dtype.name for array in stored.values()} == {"float32"}


def test_an_int8_matrix_is_not_taken_for_values(tmp_path: Path) -> None:
    stored = diffrhythm_tensors()
    stored["proj_out.weight"] = stored["proj_out.weight"].astype(np.int8)
    write_safetensors(tmp_path / "m.safetensors", stored)
    with pytest.raises(ConvertError, match=r"integer tensors are not supported: proj_out.weight is int8"):
        read_diffrhythm(tmp_path / "m.safetensors")


def codec_tensors() -> Tensors:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in OOBLECK.normed_shapes().items()}


def test_an_int8_kernel_of_a_codec_is_not_taken_for_values(tmp_path: Path) -> None:
    stored = codec_tensors()
    stored["encoder.layers.0.bias"] = stored["encoder.layers.0.bias"].astype(np.int8)
    write_safetensors(tmp_path / "m.safetensors", stored)
    with pytest.raises(ConvertError, match=r"encoder.layers.0.bias is int8"):
        read_oobleck(tmp_path / "m.safetensors")


@pytest.mark.parametrize("wrapper", ["", "module.", "autoencoder.", "model.", "model.autoencoder."])
def test_weight_norm_by_the_newer_names_of_torch_is_read(wrapper: str, tmp_path: Path) -> None:
    expected = codec_tensors()
    stored = {}
    for name, array in expected.items():
        newer = name.replace("weight_g", "parametrizations.weight.original0")
        stored[wrapper + newer.replace("weight_v", "parametrizations.weight.original1")] = array
    write_safetensors(tmp_path / "m.safetensors", stored)
    assert same(dict(read_oobleck(tmp_path / "m.safetensors").tensors(weight_norm=True)), expected)


def test_a_codec_with_names_that_are_not_known_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(OOBLECK.to_json("hf")))
    write_safetensors(tmp_path / "m" / "model.safetensors", {"wrapped.encoder.layers.0.bias": np.ones(2)})
    with pytest.raises(ConvertError) as refusal:
        convert_model(tmp_path / "m", tmp_path / "out", "hf")
    assert "DiffRhythm" not in str(refusal.value)


def test_keys_inside_the_model_of_an_audio_configuration_survive_both_ways(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = {name: rng.standard_normal(shape, np.float32) for name, shape in DIFFRHYTHM.tensor_shapes().items()}
    (tmp_path / "m").mkdir()
    write_safetensors(tmp_path / "m" / "model.safetensors", stored)
    content = DIFFRHYTHM.to_json() | {"mine": [1]}
    content["model"] |= {"heads": 16, "of_tomorrow": {"x": 1}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(content))
    convert_model(tmp_path / "m", tmp_path / "mlx", "mlx")
    convert_model(tmp_path / "mlx", tmp_path / "hf", "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text()) == content
