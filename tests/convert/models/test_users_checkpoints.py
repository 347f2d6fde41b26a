"""Checkpoints as users have them: wrapped names, mixed dtypes, heads stored apart, keys that must survive."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from require import require

from musiclora.backends import registry
from musiclora.conversion.fuse import fuse_adapters
from musiclora.conversion.model import convert_model
from musiclora.convert.adapters.formats import READERS, WRITERS
from musiclora.convert.adapters.lora import LoraSpec, state_keys
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, read_diffrhythm
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, read_checkpoint

GPT2 = Gpt2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, n_inner=32)
DIFFRHYTHM = DiffRhythmConfig(32, 2, 2, text_dim=24, conv_layers=1, mel_dim=8, text_num_embeds=5)
Tensors = dict[str, np.ndarray]


@pytest.fixture
def tensors() -> Tensors:
    return fresh_tensors(GPT2, 1)


def write_gpt2(folder: Path, stored: Tensors, **config: object) -> Path:
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", stored)
    (folder / "config.json").write_text(json.dumps(GPT2.to_json() | config))
    return folder


def loaded(folder: Path) -> Tensors:
    return dict(read_checkpoint(folder).tensors())


def same(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "model.module."])
def test_names_of_wrappers_are_taken_off_a_gpt2(wrapper: str, tensors: Tensors, tmp_path: Path) -> None:
    wrapped = {wrapper + name: array for name, array in tensors.items()}
    wrapped[f"{wrapper}lm_head.weight"] = tensors["transformer.wte.weight"]
    folder = write_gpt2(tmp_path / "m", wrapped)
    assert same(loaded(folder), tensors)
    convert_model(folder, tmp_path / "mlx", "mlx")
    assert same(loaded(tmp_path / "mlx"), tensors)


def test_names_of_a_compiled_part_are_read(tensors: Tensors, tmp_path: Path) -> None:
    inner = {name.replace("transformer.", "transformer._orig_mod."): array for name, array in tensors.items()}
    assert same(loaded(write_gpt2(tmp_path / "m", inner)), tensors)


def test_one_tensor_with_and_without_a_wrapper_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    doubled = tensors | {"module.transformer.wte.weight": tensors["transformer.wte.weight"]}
    with pytest.raises(ConvertError, match="are the same tensor"):
        read_checkpoint(write_gpt2(tmp_path / "m", doubled))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("file", ["pytorch_model.bin", "epoch=3.ckpt"])
def test_a_trainers_checkpoint_of_a_gpt2_is_read(key: str, file: str, tensors: Tensors, tmp_path: Path) -> None:
    torch = require("torch")
    state = {f"model.{name}": torch.from_numpy(array) for name, array in tensors.items()}
    optimiser = {"state": {0: {"exp_avg": torch.zeros(3)}}}
    folder = tmp_path / "m"
    folder.mkdir()
    torch.save({key: state, "optimizer_states": optimiser, "epoch": 3}, folder / file)
    (folder / "config.json").write_text(json.dumps(GPT2.to_json()))
    assert same(loaded(folder), tensors)


def test_a_head_stored_apart_and_equal_to_the_embedding_is_read(tensors: Tensors, tmp_path: Path) -> None:
    stored = tensors | {"lm_head.weight": tensors["transformer.wte.weight"].copy()}
    folder = write_gpt2(tmp_path / "m", stored, tie_word_embeddings=False)
    assert same(loaded(folder), tensors)
    stored["lm_head.weight"][0, 0] += 1
    folder = write_gpt2(tmp_path / "other", stored, tie_word_embeddings=False)
    with pytest.raises(ConvertError, match=r"lm_head.weight differs from wte"):
        loaded(folder)
    with pytest.raises(ConvertError, match="tie_word_embeddings is false"):
        read_checkpoint(write_gpt2(tmp_path / "none", tensors, tie_word_embeddings=False))


def test_float16_beside_bfloat16_converts_to_float32(tensors: Tensors, tmp_path: Path) -> None:
    mixed = {
        name: array.astype(np.float16 if ".h.0." in name else ml_dtypes.bfloat16) for name, array in tensors.items()
    }
    folder = write_gpt2(tmp_path / "m", mixed)
    assert read_checkpoint(folder).dtype == "float32"
    convert_model(folder, tmp_path / "hf", "hf")
    found = loaded(tmp_path / "hf")
    assert same(found, {name: array.astype(np.float32) for name, array in mixed.items()})


def test_float64_becomes_float32_for_mlx_and_stays_for_transformers(tensors: Tensors, tmp_path: Path) -> None:
    wide = {name: array.astype(np.float64) * (1 + 1e-12) for name, array in tensors.items()}
    folder = write_gpt2(tmp_path / "m", wide)
    result = convert_model(folder, tmp_path / "mlx", "mlx")
    assert any("rounded from float64 to float32" in note for note in result.notes)
    assert {array.dtype.name for array in loaded(tmp_path / "mlx").values()} == {"float32"}
    convert_model(folder, tmp_path / "hf", "hf")
    assert same(loaded(tmp_path / "hf"), wide)


def test_infinities_of_a_causal_mask_which_is_left_out_do_no_harm(tensors: Tensors, tmp_path: Path) -> None:
    mask = np.full((), -np.inf, np.float32)
    stored = tensors | {f"transformer.h.{i}.attn.masked_bias": mask for i in range(2)}
    folder = write_gpt2(tmp_path / "m", stored)
    assert same(loaded(folder), tensors)
    stored["transformer.wte.weight"][0, 0] = np.inf
    with pytest.raises(ConvertError, match="non-finite"):
        loaded(write_gpt2(tmp_path / "other", stored))


def test_keys_of_a_configuration_survive_a_round_trip(tensors: Tensors, tmp_path: Path) -> None:
    extra = {
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.3),
        "pad_token_id": 3,
        "initializer_range": 0.05,
        "eos_token_id": [4, 5],
        "task_specific_params": {"text-generation": {"max_length": 50}},
    }
    folder = write_gpt2(tmp_path / "m", tensors, _name_or_path="/home/me/m", transformers_version="4.1", **extra)
    convert_model(folder, tmp_path / "mlx", "mlx")
    convert_model(tmp_path / "mlx", tmp_path / "hf", "hf")
    found = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert {key: found[key] for key in extra} == extra
    assert not {"_name_or_path", "transformers_version"} & found.keys()


def test_values_that_float16_turns_into_zero_are_counted(tensors: Tensors, tmp_path: Path) -> None:
    tensors["transformer.h.0.attn.c_attn.weight"][:2, :3] = 1e-9
    result = convert_model(write_gpt2(tmp_path / "m", tensors), tmp_path / "hf", "hf", "float16")
    assert any(note.startswith("6 values are too small for float16 and became zero") for note in result.notes)
    result = convert_model(tmp_path / "m", tmp_path / "other", "hf", "bfloat16")
    assert not any("became zero" in note for note in result.notes)


def test_a_folder_without_a_model_type_is_refused_by_what_it_lacks(tensors: Tensors, tmp_path: Path) -> None:
    folder = write_gpt2(tmp_path / "m", tensors)
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConvertError, match=r"config.json states no model_type; a GPT-2's states \"gpt2\""):
        convert_model(folder, tmp_path / "out", "mlx")
    write_gpt2(tmp_path / "whole", tensors)
    with pytest.raises(ConvertError, match="give its folder"):
        convert_model(tmp_path / "whole" / "model.safetensors", tmp_path / "out", "mlx")
    shutil.copy(folder / "model.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(ConvertError, match=r"a GPT-2 needs a folder with config.json beside its weights"):
        convert_model(tmp_path / "alone.safetensors", tmp_path / "out", "mlx")


GPT2_MODULE, AUDIO_MODULE = "transformer.h.0.attn.c_attn", "transformer_blocks.0.self_attn.q_proj"


def write_lora(folder: Path, module: str, shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    state = {key: np.ones(shape, np.float32) for key, shape in zip(state_keys(module), shapes, strict=True)}
    write_peft(folder, LoraSpec(2, 4.0, 0.0, (module,)), state, base_model="base")


@pytest.mark.parametrize("form", ["peft", "mlx-lm", "diffusers", "kohya"])
def test_int8_arrays_of_an_adapter_are_not_taken_for_values(form: str, tmp_path: Path) -> None:
    audio = form in ("diffusers", "kohya")
    write_lora(tmp_path / "a", AUDIO_MODULE if audio else GPT2_MODULE, ((2, 8), (8 if audio else 24, 2)))
    name = "out.safetensors" if form == "kohya" else "out"
    source = tmp_path / "a" if form == "peft" else tmp_path / name
    if form != "peft":
        WRITERS[form](source, read_peft(tmp_path / "a"))
    file = source if source.is_file() else next(source.glob("*.safetensors"))
    stored = read_safetensors(file)
    file.unlink()
    rounded = {n: array.astype(np.int8) if array.ndim == 2 else array for n, array in stored.items()}
    write_safetensors(file, rounded, safetensors_metadata(form))
    with pytest.raises(ConvertError, match=r"is int8: quantised or integer arrays are not supported"):
        READERS[form](source)


def safetensors_metadata(form: str) -> dict[str, str]:
    return {"format": "mlx" if form == "mlx-lm" else "pt"}


def test_fuse_keeps_a_configuration_and_reads_mixed_halves(
    tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "probe", lambda name: {"error": "not installed"})  # nothing compares the outputs
    mixed = {
        name: array.astype(np.float16 if ".h.0." in name else ml_dtypes.bfloat16) for name, array in tensors.items()
    }
    base = write_gpt2(tmp_path / "base", mixed, pad_token_id=3, resid_pdrop=0.3)
    write_lora(tmp_path / "a", GPT2_MODULE, ((2, 8), (24, 2)))
    fuse_adapters([str(tmp_path / "a")], tmp_path / "out", str(base))
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (found["pad_token_id"], found["resid_pdrop"], found["torch_dtype"]) == (3, 0.3, "float32")
    expected = {name: array.astype(np.float32) for name, array in mixed.items()}
    expected[f"{GPT2_MODULE}.weight"] = expected[f"{GPT2_MODULE}.weight"] + 4.0  # 4 / 2 times the sum over 2 ranks
    assert same(loaded(tmp_path / "out"), expected)


@pytest.mark.parametrize("family", ["gpt2", "diffrhythm"])
def test_rounding_from_float64_is_told_by_its_size(family: str, tmp_path: Path) -> None:
    config = GPT2 if family == "gpt2" else DIFFRHYTHM
    rng = np.random.default_rng(0)
    stored = {name: rng.standard_normal(shape) for name, shape in config.tensor_shapes().items()}
    (tmp_path / "m").mkdir()
    write_safetensors(tmp_path / "m" / "model.safetensors", stored)
    (tmp_path / "m" / "config.json").write_text(json.dumps(config.to_json()))
    notes = " ".join(convert_model(tmp_path / "m", tmp_path / "out", "mlx").notes)
    change = max(float(np.abs(array - array.astype(np.float32)).max()) for array in stored.values())
    assert f"the largest change of a weight is {change:.3g}" in notes
    assert "same value" not in notes


@pytest.mark.parametrize("key", ["ema", "weights", "params", "generator"])
def test_the_only_weights_of_a_torch_file_are_found_under_any_key(key: str, tmp_path: Path) -> None:
    torch = require("torch")
    rng = np.random.default_rng(0)
    stored = {name: rng.standard_normal(shape, np.float32) for name, shape in DIFFRHYTHM.tensor_shapes().items()}
    weights = {f"transformer.{name}": torch.from_numpy(array) for name, array in stored.items()}
    trainer = {"optimizer": {"state": {0: {"exp_avg": torch.ones(2, 2)}}}, "step": torch.tensor(3), "epoch": 1}
    torch.save({key: weights} | trainer, tmp_path / "m.pt")
    assert same(dict(read_diffrhythm(tmp_path / "m.pt").tensors()), stored)
    torch.save({key: weights, "second": weights}, tmp_path / "n.pt")
    with pytest.raises(ConvertError):
        read_diffrhythm(tmp_path / "n.pt")


def test_a_switch_of_a_configuration_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match='causal is "false", expected true or false'):
        DiffRhythmConfig.from_json(DIFFRHYTHM.to_json() | {"causal": "false"})


def test_a_value_of_a_configuration_is_quoted_as_it_stands_there(tensors: Tensors, tmp_path: Path) -> None:
    write_gpt2(tmp_path / "m", tensors, tie_word_embeddings=False)
    with pytest.raises(ConvertError, match="tie_word_embeddings is false, supported is true"):
        read_checkpoint(tmp_path / "m")
    write_gpt2(tmp_path / "n", tensors, n_head="2")
    with pytest.raises(ConvertError, match='n_head is "2"'):
        read_checkpoint(tmp_path / "n")
