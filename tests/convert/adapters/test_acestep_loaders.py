"""ACE-Step's adapters, loaded by diffusers' pipeline and by PEFT, and those that they saved."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import acestep_toys as toys
import numpy as np
import pytest
import tolerance
from acestep_adapters import ATTENTION, MODULES, SHAPES, adapter, assert_same, write
from require import require

from musiclora.convert.adapters.diffusers import FILE, read_diffusers
from musiclora.convert.adapters.lora import state_keys
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.models.acestep_names import rename_attention, restore_attention

RANKS = {MODULES[0]: 2, MODULES[-1]: 7}


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def bare_pipeline() -> Any:
    """A pipeline of a transformer alone, which is all that an adapter touches."""
    diffusers = require("diffusers")
    transformer, encoder = toys.diffusers_models(toys.SMALL)
    return diffusers.AceStepPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        condition_encoder=encoder,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )


def update(found: LoraAdapter, module: str) -> np.ndarray:
    key_a, key_b = state_keys(module)
    return found.scales[module] * (found.state[key_b].astype(np.float64) @ found.state[key_a])


@pytest.mark.parametrize("ranks", [None, RANKS], ids=["one rank", "ranks"])
@pytest.mark.parametrize("to", ["peft", "diffusers"])
def test_load_lora_weights_takes_arrays_and_scale(to: str, ranks: dict[str, int] | None, tmp_path: Path) -> None:
    require("peft")
    found = adapter(ranks=ranks)
    write(tmp_path / "a", found, to)
    pipeline = bare_pipeline()
    weights = {m: pipeline.transformer.get_submodule(rename_attention(m)).weight.detach().numpy() for m in MODULES}
    before = {module: weight.copy() for module, weight in weights.items()}
    with quiet():
        pipeline.load_lora_weights(
            str(tmp_path / "a"), weight_name=FILE if to == "diffusers" else "adapter_model.safetensors"
        )
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    for module in MODULES:
        weight = pipeline.transformer.get_submodule(rename_attention(module)).weight.detach().numpy()
        expected = update(found, module)
        # A sum over the rank and the weight that it is added to.
        limit = tolerance.rounding(8, np.abs(expected).max() * 4 + 1)
        tolerance.assert_near(weight - before[module], expected, limit, module)


def test_an_adapter_that_diffusers_saved_is_read_with_its_scale(tmp_path: Path) -> None:
    torch, peft = require("torch"), require("peft")
    pipeline = bare_pipeline()
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["to_q", "to_out.0"], init_lora_weights=False)
    torch.manual_seed(0)
    with quiet():
        pipeline.transformer.add_adapter(config)
        layers = peft.get_peft_model_state_dict(pipeline.transformer)
        pipeline.save_lora_weights(
            tmp_path / "a",
            transformer_lora_layers=layers,
            transformer_lora_adapter_metadata=config.to_dict(),
        )
    found = read_diffusers(tmp_path / "a")
    assert set(found.ranks) == {module for module in MODULES if module.endswith(("q_proj", "o_proj"))}
    assert set(found.scales.values()) == {5 / 3}
    for name, tensor in layers.items():
        module, _, part = name.rpartition(".lora_")
        np.testing.assert_array_equal(found.state[f"{restore_attention(module)}.lora_{part}"], tensor.numpy())


def test_a_peft_folder_of_diffusers_transformer_gets_the_originals_names(tmp_path: Path) -> None:
    torch, peft = require("torch"), require("peft")
    torch.manual_seed(0)
    transformer, _ = toys.diffusers_models(toys.SMALL)
    names = ["to_q", "to_k", "to_v", "to_out.0"]
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=names, init_lora_weights=False)
    with quiet():
        model = peft.get_peft_model(transformer, config)
        model.save_pretrained(tmp_path / "a")
    found = read_peft(tmp_path / "a")
    assert set(found.ranks) == set(MODULES)
    assert found.spec.targets == tuple(sorted(ATTENTION))
    state = {name: tensor.detach().numpy() for name, tensor in model.named_parameters() if "lora_" in name}
    key = "base_model.model.layers.1.cross_attn.to_out.0.lora_B.default.weight"
    np.testing.assert_array_equal(found.state["layers.1.cross_attn.o_proj.lora_B.weight"], state[key])


def _upstream_decoder() -> Any:
    """A module tree with upstream's names and linear layers, as its decoder has them."""
    nn = require("torch").nn
    root = nn.Module()
    for path, (out, inputs) in SHAPES.items():
        node = root
        *parents, leaf = path.split(".")
        for name in parents:
            if not hasattr(node, name):
                node.add_module(name, nn.Module())
            node = getattr(node, name)
        node.add_module(leaf, nn.Linear(inputs, out))
    return root


@pytest.mark.parametrize("ranks", [None, RANKS], ids=["one rank", "ranks"])
def test_vanilla_peft_loads_our_folder_onto_upstreams_names(ranks: dict[str, int] | None, tmp_path: Path) -> None:
    peft = require("peft")
    found = adapter(ranks=ranks)
    write(tmp_path / "a", found, "peft")
    decoder = _upstream_decoder()
    before = {m: decoder.get_submodule(m).weight.detach().numpy().copy() for m in MODULES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*missing.*keys.*")
        merged = peft.PeftModel.from_pretrained(decoder, str(tmp_path / "a")).merge_and_unload()
    for module in MODULES:
        change = merged.get_submodule(module).weight.detach().numpy() - before[module]
        expected = update(found, module)
        tolerance.assert_near(change, expected, tolerance.rounding(8, np.abs(expected).max() * 4 + 1), module)


def test_our_folder_and_its_diffusers_copy_are_one_adapter(tmp_path: Path) -> None:
    found = adapter(ranks=RANKS)
    write(tmp_path / "p", found, "peft")
    write(tmp_path / "d", read_peft(tmp_path / "p"), "diffusers")
    assert_same(read_diffusers(tmp_path / "d"), found)
