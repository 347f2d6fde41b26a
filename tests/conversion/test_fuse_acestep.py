"""Fusing, blending and converting of ACE-Step's adapters, checked by velocity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import acestep_toys as toys
import numpy as np
import pytest
import tolerance
from click.testing import CliRunner
from refusal import refused
from require import require

from musiclora.backends import lora_init
from musiclora.cli import main
from musiclora.convert.adapters.lora import LoraSpec, state_modules, state_shapes
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.acestep import read_acestep
from musiclora.families import ACESTEP

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def acestep_backend(backend_name: str) -> str:
    """Every backend that computes ACE-Step."""
    if backend_name == "torch":
        require("diffusers")
    return backend_name


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def report(*arguments: Any) -> dict[str, Any]:
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def make_adapter(
    folder: Path, seed: int, rank: int = 3, alpha: float = 6.0, dora: bool = False, style: bool = False
) -> Path:
    spec = LoraSpec(rank, alpha, 0.0, TARGETS, dora=dora)
    rng, shapes = np.random.default_rng(seed), state_shapes(spec, toys.EVEN.linear_shapes())
    state = {name: (0.05 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    magnitudes = {}
    if dora:
        weights = toys.random_tensors(toys.EVEN).items()
        joined = lora_init.with_magnitudes({k: v for k, v in state.items() if "magn" not in k}, weights, conv1d=False)
        ending = ".lora_magnitude_vector"
        magnitudes = {k.removesuffix(ending): 1.1 * v for k, v in joined.items() if k.endswith(ending)}
        state = {k: v for k, v in state.items() if "magn" not in k}
    write_peft(
        folder,
        spec,
        state,
        base_model="base",
        task_type="FEATURE_EXTRACTION",
        fan_in_fan_out=False,
        record={"family": "audio"},
        magnitudes=magnitudes,
    )
    if style:
        write_safetensors(folder / "style.safetensors", {"style": np.full((2, 64), float(seed), np.float32)})
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    toys.write_random(tmp_path / "base", toys.EVEN, "hf")
    return tmp_path / "base"


@pytest.fixture
def adapters(tmp_path: Path) -> tuple[Path, Path]:
    return make_adapter(tmp_path / "a", 1, style=True), make_adapter(tmp_path / "b", 2, rank=2, style=True)


def fuse(base: Path, *adapters: object, to: str, backend: str) -> dict[str, Any]:
    chosen = [part for adapter in adapters for part in ("--adapter-dir", adapter)]
    return report("fuse", *chosen, "--model", base, "--to", to, "--output-dir", "fused", "--backend", backend)


@pytest.mark.parametrize("to", ["hf", "mlx"])
def test_fusing_computes_what_base_and_adapters_compute(
    to: str, base: Path, adapters: tuple[Path, Path], acestep_backend: str, tmp_path: Path
) -> None:
    done = fuse(base, f"{adapters[0]}:0.5", f"{adapters[1]}:-1", to=to, backend=acestep_backend)
    assert done["backend"] == acestep_backend
    assert done["velocity_difference"] <= 1e-4 * max(1, done["largest_velocity"])
    before, after = toys.read_all(base), toys.read_all(tmp_path / "fused")
    parts = [(read_peft(adapters[0]), 0.5), (read_peft(adapters[1]), -1.0)]
    modules = state_modules(parts[0][0].state)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {f"decoder.{module}.weight" for module in modules}
    for module in modules:
        expected = before[f"decoder.{module}.weight"].astype(np.float64)
        for adapter, strength in parts:
            a, b = (adapter.state[f"{module}.lora_{part}.weight"] for part in "AB")
            expected = expected + strength * adapter.spec.scale * (b.astype(np.float64) @ a)
        limit = tolerance.rounding(2 * 8, 2 * np.abs(expected).max())
        tolerance.assert_near(after[f"decoder.{module}.weight"], expected, limit, module)
    assert any("trained condition is no weight" in note for note in done["notes"])
    assert any("no codec" in note for note in done["notes"])
    record = json.loads((tmp_path / "fused" / "musiclora.json").read_text())
    assert (record["family"], record["fused"]) == ("audio", [0.5, -1.0])


def test_a_dora_adapter_on_a_quantised_base_is_fused(base: Path, acestep_backend: str, tmp_path: Path) -> None:
    report("convert", "model", base, "packed", "--to", "mlx", "--quantize", "8")
    packed, adapter = tmp_path / "packed", make_adapter(tmp_path / "dora", 4, dora=True)
    done = fuse(packed, adapter, to="mlx", backend=acestep_backend)
    assert done["velocity_difference"] <= 1e-4 * max(1, done["largest_velocity"])
    assert any("8-bit base was de-quantised" in note for note in done["notes"])
    assert read_acestep(tmp_path / "fused").bits is None


def test_a_base_in_half_precision_stays_so_and_keeps_the_codes_of_the_original(
    tmp_path: Path, adapters: tuple[Path, Path], acestep_backend: str
) -> None:
    require("torch")
    toys.write_original(tmp_path / "original", toys.EVEN, "bfloat16")
    done = fuse(tmp_path / "original", adapters[0], to="hf", backend=acestep_backend)
    found = read_acestep(tmp_path / "fused")
    assert {str(kind) for kind in found.dtypes.values()} == {"bfloat16"}
    assert len(found.carried) == 2
    assert any("rounded to bfloat16" in note for note in done["notes"])


def test_parts_beside_the_base_travel_with_the_fused_model(
    tmp_path: Path, acestep_backend: str, adapters: tuple[Path, Path]
) -> None:
    require("diffusers")
    toys.write_upstream_folders(tmp_path / "upstream", toys.EVEN)
    fuse(tmp_path / "upstream" / "acestep-v15-turbo", adapters[0], to="hf", backend=acestep_backend)
    names = {path.name for path in (tmp_path / "fused").iterdir()}
    assert {"vae", "text_encoder", "tokenizer", "README.md", "musiclora.json", "silence_latent.safetensors"} <= names


def test_adapters_of_another_architecture_or_size_are_refused(
    base: Path, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    toys.write_random(tmp_path / "small", toys.SMALL, "hf")
    refused(call("fuse", "--adapter-dir", adapters[0], "--model", "small", "--output-dir", "out"), "do not fit")
    state = {f"transformer_blocks.0.self_attn.q_proj.lora_{p}.weight": np.ones((2, 2), np.float32) for p in "AB"}
    write_peft(tmp_path / "other", LoraSpec(2, 1.0, 0.0, ("q_proj",)), state, base_model="")
    done = call("fuse", "--adapter-dir", adapters[0], "--adapter-dir", "other", "--model", base, "--output-dir", "out")
    refused(done, "different families", "diffrhythm", "acestep")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ACESTEP.adapter_formats)
def test_an_adapter_becomes_every_format_and_comes_back(
    to: str, base: Path, acestep_backend: str, tmp_path: Path
) -> None:
    source = make_adapter(tmp_path / "source", 5, rank=64, alpha=128.0, style=True)
    out = "out.safetensors" if to in ("kohya", "comfyui") else "out"
    checked = ("--model", base, "--backend", acestep_backend)
    done = report("convert", "adapter", source, out, "--to", to, *checked)
    assert (done["backend"], done["update_difference"]) == (acestep_backend, 0.0)
    assert done["velocity_difference"] <= 1e-5 * max(1, done["largest_velocity"])
    report("convert", "adapter", out, "back", "--to", "peft", *checked)
    before, after = read_peft(source), read_peft(tmp_path / "back")
    assert (after.spec.rank, after.spec.alpha) == (64, 128.0)
    assert after.config["task_type"] == "FEATURE_EXTRACTION"
    for name, array in before.state.items():
        np.testing.assert_array_equal(after.state[name], array, err_msg=name)
    if out == "out":
        assert read_safetensors(tmp_path / out / "style.safetensors")["style"].shape == (2, 64)
    else:
        assert any("style" in note for note in done["notes"])


def test_a_dora_adapter_is_compared_by_velocity(base: Path, acestep_backend: str, tmp_path: Path) -> None:
    make_adapter(tmp_path / "dora", 4, dora=True)
    done = report(
        "convert", "adapter", "dora", "out", "--to", "diffusers", "--model", base, "--backend", acestep_backend
    )
    assert done["velocity_difference"] <= 1e-5 * max(1, done["largest_velocity"])


@pytest.mark.parametrize(("part", "kind"), [("lokr_w1", "LoKr"), ("hada_w1_a", "LoHa")])
def test_other_kinds_of_adapters_are_refused_by_name(part: str, kind: str, tmp_path: Path) -> None:
    name = f"lycoris_layers_0_self_attn_q_proj.{part}"
    write_safetensors(tmp_path / "other.safetensors", {name: np.ones((2, 2), np.float32)})
    refused(call("convert", "adapter", "other.safetensors", "out", "--to", "peft"), kind)


def test_formats_of_other_architectures_are_refused(adapters: tuple[Path, Path], tmp_path: Path) -> None:
    refused(call("convert", "adapter", adapters[0], "out", "--to", "mlx-lm"), "ACE-Step", "comfyui")
    refused(call("convert", "adapter", adapters[0], "out", "--to", "comfyui"), ".safetensors")


def test_a_blend_is_one_adapter_with_the_conditions_added_up(adapters: tuple[Path, Path], tmp_path: Path) -> None:
    report("blend", f"{adapters[0]}:0.5", f"{adapters[1]}:0.25", "out")
    found = read_peft(tmp_path / "out")
    assert (found.spec.rank, found.config["task_type"]) == (5, "FEATURE_EXTRACTION")
    style = read_safetensors(tmp_path / "out" / "style.safetensors")["style"]
    np.testing.assert_array_equal(style, np.full((2, 64), 1.0, np.float32))


def test_a_blend_with_a_dora_adapter_reads_the_bases_weights(base: Path, acestep_backend: str, tmp_path: Path) -> None:
    """Names of weights begin with `decoder.`, those of modules do not."""
    chosen = [f"{make_adapter(tmp_path / 'dora', 4, dora=True)}:0.5", str(make_adapter(tmp_path / "plain", 5))]
    fuse(base, *chosen, to="hf", backend=acestep_backend)
    report("blend", *chosen, "out")
    blended = report(
        "fuse", "--adapter-dir", "out", "--model", base, "--output-dir", "again", "--backend", acestep_backend
    )
    assert blended["velocity_difference"] <= 1e-4 * max(1, blended["largest_velocity"])
    whole, parts = (toys.read_all(tmp_path / name) for name in ("again", "fused"))
    for name, value in parts.items():
        limit = 1e-5 * max(1.0, float(np.abs(value).max()))  # sums in another order
        tolerance.assert_near(whole[name], value, limit, name)


@pytest.mark.parametrize("source", ["upstream", "upstream/acestep-v15-turbo", "pipeline"])
def test_convert_model_takes_every_kind_of_folder(source: str, tmp_path: Path) -> None:
    require("diffusers")
    tensors = toys.write_upstream_folders(tmp_path / "upstream", toys.SMALL)
    report("convert", "model", "upstream", "pipeline", "--to", "diffusers")
    report("convert", "model", source, "out", "--to", "mlx")
    toys.assert_same(toys.read_all(tmp_path / "out"), tensors)
    assert (tmp_path / "out" / "vae").is_dir()
    refused(call("convert", "model", source, "x", "--to", "hf", "--causal"), "--causal")
