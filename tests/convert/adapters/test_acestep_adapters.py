"""ACE-Step's adapters in every format, and the many spellings of their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from acestep_adapters import ATTENTION, MODULES, adapter, assert_same, write

from musiclora.convert.adapters import acestep_modules, diffrhythm_modules
from musiclora.convert.adapters.acestep_modules import owns_acestep_modules
from musiclora.convert.adapters.audio_arrays import find_module
from musiclora.convert.adapters.diffusers import FILE
from musiclora.convert.adapters.formats import READERS, read_any_file, read_any_folder
from musiclora.convert.adapters.lora import state_keys
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.gpt2 import owns_gpt2_modules


def test_the_recipe_of_users_is_recognised_and_no_other_architecture() -> None:
    assert owns_acestep_modules(MODULES)
    assert not owns_gpt2_modules(MODULES)
    assert not diffrhythm_modules.owns_diffrhythm_modules(MODULES)
    assert not acestep_modules.known_modules() & diffrhythm_modules.known_modules()
    assert not owns_acestep_modules(["layers.0.self_attn.to_q"])
    assert not owns_acestep_modules(["transformer_blocks.0.self_attn.q_proj"])


@pytest.mark.parametrize(
    "path",
    [
        "layers.3.cross_attn.o_proj",
        "base_model.model.layers.3.cross_attn.o_proj",
        "base_model.model.decoder.layers.3.cross_attn.o_proj",
        "decoder.layers.3.cross_attn.o_proj",
        "transformer.layers.3.cross_attn.to_out.0",
        "layers.3.cross_attn.to_out.0",
        "diffusion_model.layers.3.cross_attn.o_proj",
        "diffusion_model.decoder.layers.3.cross_attn.o_proj",
        "lycoris_layers_3_cross_attn_o_proj",
        "lora_unet_layers_3_cross_attn_o_proj",
        "lora_unet_decoder_layers_3_cross_attn_o_proj",
        "lora_transformer_layers_3_cross_attn_to_out_0",
    ],
)
def test_every_spelling_means_one_module(path: str) -> None:
    assert find_module(path) == "layers.3.cross_attn.o_proj"


@pytest.mark.parametrize("to", ["peft", "diffusers", "kohya", "comfyui"])
@pytest.mark.parametrize(
    "found",
    [
        adapter(),
        adapter(ranks={MODULES[0]: 2, MODULES[-1]: 7}),
        adapter(["layers.1.mlp.down_proj", "condition_embedder", "time_embed_r.time_proj"]),
    ],
    ids=["attention", "ranks", "other layers"],
)
def test_every_format_gives_back_arrays_and_scales(to: str, found: LoraAdapter, tmp_path: Path) -> None:
    path = tmp_path / ("a.safetensors" if to in ("kohya", "comfyui") else "a")
    write(path, found, to)
    assert_same(READERS["kohya" if to == "comfyui" else to](path), found)
    assert_same(read_any_folder(path) if path.is_dir() else read_any_file(path), found)


def test_a_language_models_adapter_is_not_taken_for_one() -> None:
    assert find_module("base_model.model.model.layers.0.self_attn.q_proj") is None
    assert find_module("model.layers.0.self_attn.q_proj") is None


def test_names_in_the_files_are_those_that_their_readers_expect(tmp_path: Path) -> None:
    found = adapter(["layers.0.self_attn.q_proj", "layers.0.cross_attn.o_proj"])
    for to in ("peft", "diffusers", "kohya", "comfyui"):
        write(tmp_path / (f"{to}.safetensors" if to in ("kohya", "comfyui") else to), found, to)
    files = {
        "peft/adapter_model.safetensors": "base_model.model.layers.0.cross_attn.o_proj.lora_A.weight",
        f"diffusers/{FILE}": "transformer.layers.0.cross_attn.to_out.0.lora_A.weight",
        "kohya.safetensors": "lycoris_layers_0_cross_attn_o_proj.lora_down.weight",
        "comfyui.safetensors": "diffusion_model.decoder.layers.0.cross_attn.o_proj.lora_down.weight",
    }
    for file, name in files.items():
        assert name in read_safetensors(tmp_path / file), file


def test_an_adapter_of_the_whole_model_is_read_by_its_decoders_names(tmp_path: Path) -> None:
    found = adapter()
    write(tmp_path / "a", found, "peft")
    file = tmp_path / "a" / "adapter_model.safetensors"
    arrays = read_safetensors(file)
    file.unlink()
    renamed = {name.replace("base_model.model.", "base_model.model.decoder."): a for name, a in arrays.items()}
    write_safetensors(file, renamed)
    assert_same(read_peft(tmp_path / "a"), found)
    assert read_peft(tmp_path / "a").spec.targets == tuple(sorted(ATTENTION))


# --- what is refused ---


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lycoris_layers_0_self_attn_q_proj.lokr_w1"], "LoKr"),
        (["base_model.model.layers.0.self_attn.q_proj.lokr_w2_a"], "LoKr"),
        (["lycoris_layers_0_self_attn_q_proj.hada_w1_a"], "LoHa"),
        (["diffusion_model.decoder.layers.0.self_attn.q_proj.hada_w2_b"], "LoHa"),
        (["diffusion_model.layers.0.self_attn.qkv.lora_A.weight"], "no linear layer of DiffRhythm or ACE-Step"),
    ],
)
def test_other_methods_and_modules_are_refused_by_name(names: list[str], words: str, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_safetensors(file, {name: np.ones((2, 2), np.float32) for name in names})
    with pytest.raises(ConvertError, match=words) as caught:
        read_any_file(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["LOKR", "LOHA"])
def test_peft_folders_of_other_methods_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "a", adapter(), "peft")
    file = tmp_path / "a" / "adapter_config.json"
    settings: dict[str, Any] = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"peft_type": kind}))
    with pytest.raises(ConvertError, match=kind):
        read_any_folder(tmp_path / "a")


def test_modules_of_two_architectures_in_one_file_are_refused(tmp_path: Path) -> None:
    arrays = {}
    for module in ("layers.0.self_attn.q_proj", "transformer_blocks.0.self_attn.q_proj"):
        key_a, key_b = state_keys(f"diffusion_model.{module}")
        arrays |= {key_a: np.ones((2, 8), np.float32), key_b: np.ones((8, 2), np.float32)}
    write_safetensors(tmp_path / "a.safetensors", arrays)
    with pytest.raises(ConvertError, match="modules of two architectures"):
        read_any_file(tmp_path / "a.safetensors")
