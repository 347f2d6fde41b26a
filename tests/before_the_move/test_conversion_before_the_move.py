"""What commit 6ef70d8 wrote still converts; only the command line is used, so that code may move."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from old_files import EXPECTED, FAMILIES, OUTPUT, assert_no_doubt, call, evaluated, found, near
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_makes_music(family, backend_name, work):
    if family == "audio":
        pytest.importorskip("soundfile")
    length = {"symbolic": ["--max-new-tokens", 60], "audio": ["--seconds", 1, "--steps", 2]}[family]
    adapter = f"finished/{family}-{backend_name}/adapter-best"
    result = call(
        "generate",
        "--model",
        f"bases/{family}",
        "--adapter-dir",
        adapter,
        "--output",
        OUTPUT[family],
        "--backend",
        backend_name,
        *length,
        "--compare",
        "--json",
    )
    assert len(found(result)["files"]) == 2
    assert (work / OUTPUT[family]).stat().st_size > 0
    assert_no_doubt(result)


@pytest.mark.parametrize("maker", ["torch", "mlx"])
def test_vanilla_peft_loads_an_adapter_whole(maker):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import GPT2LMHeadModel

    folder = Path(f"finished/symbolic-{maker}/adapter-best")
    model = peft.PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained("bases/symbolic"), str(folder))
    loaded, stored = peft.get_peft_model_state_dict(model), load_file(folder / "adapter_model.safetensors")
    assert sorted(loaded) == sorted(stored)
    assert all(torch.equal(loaded[name], torch.from_numpy(stored[name])) for name in stored)


@pytest.mark.parametrize(
    ("source", "family"),
    [("converted/mlx-lm", "symbolic"), ("converted/kohya.safetensors", "audio"), ("converted/diffusers", "audio")],
    ids=["mlx-lm", "kohya", "diffusers"],
)
def test_a_converted_adapter_converts_back(source, family, any_backend):
    base = f"bases/{family}"
    call("convert", "adapter", source, "back", "--to", "peft", "--model", base, "--backend", any_backend)
    original = Path(f"finished/{family}-torch/adapter-best")
    back, before = (updates(folder) for folder in ("back", original))
    assert sorted(back) == sorted(before)
    for module, update in before.items():
        # Formats put the scale into different factors: a few roundings of float32.
        np.testing.assert_allclose(back[module], update, rtol=1e-5, atol=1e-6 * np.abs(update).max(), err_msg=module)
    if "kohya" in source:  # has no place for the style
        shutil.copy(original / "style.safetensors", "back")
    result = evaluated(family, any_backend, "--adapter-dir", "back")
    assert found(result)["loss"] == near(EXPECTED[f"adapter {family}-torch"])


def updates(folder: Path | str) -> dict[str, np.ndarray]:
    """What a PEFT adapter adds to each module, in float64."""
    config = json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))
    arrays = load_file(Path(folder, "adapter_model.safetensors"))
    made = {}
    for key, a in arrays.items():
        if key.endswith(".lora_A.weight"):
            module = key.removesuffix(".lora_A.weight")
            b = arrays[f"{module}.lora_B.weight"]
            made[module] = config["lora_alpha"] / config["r"] * (b.astype(np.float64) @ a.astype(np.float64))
    return made


def test_a_converted_model_converts_back_bit_for_bit():
    call("convert", "model", "converted/base-mlx", "back", "--to", "hf")
    today, before = (load_file(f"{folder}/model.safetensors") for folder in ("back", "bases/symbolic"))
    assert sorted(today) == sorted(before)
    assert all(np.array_equal(today[name], before[name]) for name in before)


def test_an_adapter_fits_the_conversion_of_its_base_by_the_record(backend_name):
    adapter = ["--adapter-dir", "finished/symbolic-torch"]
    result = evaluated("symbolic", backend_name, *adapter, model="converted/base-mlx")
    assert found(result)["loss"] == near(EXPECTED["adapter symbolic-torch"])
    quantised = evaluated("symbolic", backend_name, *adapter, model="converted/base-4bit")
    assert found(quantised)["base"]["loss"] == near(EXPECTED["base-4bit"])
    assert found(quantised)["loss"] == near(EXPECTED["adapter on base-4bit"])
    assert "is a conversion of the base that it was trained on" in quantised.stderr
