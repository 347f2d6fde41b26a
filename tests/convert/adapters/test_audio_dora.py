"""DoRA adapters of the audio model: in every format, checked by velocity."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tolerance
from click.testing import CliRunner
from require import require

from musiclora.cli import main
from musiclora.conversion.adapter import convert_adapter, read_adapter
from musiclora.convert.adapters.diffusers import FILE, write_diffusers
from musiclora.convert.adapters.kohya import write_kohya
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import read_safetensors, safetensors_header, write_safetensors
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, write_diffrhythm

CONFIG = DiffRhythmConfig(64, 2, 2, conv_layers=1, mel_dim=8, text_num_embeds=5, max_frames=64)
SPEC = LoraSpec(3, 4.0, 0.0, ("q_proj", "up_proj", "proj_out"))  # q_proj is square
Q = "transformer_blocks.0.self_attn.q_proj"
FLAT = "lora_unet_transformer_blocks_0_self_attn_q_proj"


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    state = {
        n: (0.2 * rng.standard_normal(s)).astype(np.float32)
        for n, s in state_shapes(SPEC, CONFIG.linear_shapes()).items()
    }
    outs = {m: out for m, (out, _) in CONFIG.linear_shapes().items() if f"{m}.lora_A.weight" in state}
    lengths = {module: rng.uniform(0.5, 1.5, out).astype(np.float32) for module, out in outs.items()}
    write_peft(tmp_path / "a", SPEC, state, base_model="base", magnitudes=lengths, task_type=None, fan_in_fan_out=False)
    tensors = {n: (0.1 * rng.standard_normal(s)).astype(np.float32) for n, s in CONFIG.tensor_shapes().items()}
    for name, array in tensors.items():
        if "layernorm" in name:
            array += 1
    write_diffrhythm(tmp_path / "base", CONFIG, tensors.items(), "hf", "float32")
    return tmp_path


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(np.array_equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("to", ["peft", "diffusers", "kohya"])
@pytest.mark.slow
def test_every_format_holds_it_and_the_velocity_of_both_is_compared(to: str, any_backend: str) -> None:
    done = CliRunner().invoke(
        main, ["convert", "adapter", "a", "out.safetensors", "--to", to, "--backend", any_backend, "--json"]
    )
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["backend"] == any_backend
    assert report["velocity_difference"] == 0
    assert report["largest_velocity"] > 0.01
    convert_adapter("out.safetensors", Path("back"), "peft", str(Path("base")), any_backend)
    first, second = read_peft(Path("a")), read_peft(Path("back"))
    assert same(first.state, second.state)
    assert same(first.magnitudes, second.magnitudes)
    assert second.config["use_dora"] is True


def test_the_names_are_those_that_each_formats_tools_write() -> None:
    adapter = read_peft(Path("a"))
    write_kohya(Path("k.safetensors"), adapter)
    write_diffusers(Path("d"), adapter)
    kohya, diffusers = read_safetensors(Path("k.safetensors")), read_safetensors(Path("d") / FILE)
    assert np.array_equal(kohya[f"{FLAT}.dora_scale"], adapter.magnitudes[Q][:, None])
    assert np.array_equal(diffusers[f"transformer.{Q}.lora_magnitude_vector"], adapter.magnitudes[Q])
    header = json.loads(safetensors_header(Path("d") / FILE)[1]["lora_adapter_metadata"])
    assert header["transformer.use_dora"] is True


def test_what_does_not_make_a_whole_adapter_is_named() -> None:
    adapter = read_peft(Path("a"))
    write_kohya(Path("k.safetensors"), adapter)
    arrays = read_safetensors(Path("k.safetensors"))
    # The lengths of a square matrix's columns: as many values, another meaning.
    write_safetensors(Path("t.safetensors"), arrays | {f"{FLAT}.dora_scale": arrays[f"{FLAT}.dora_scale"].T})
    with pytest.raises(ConvertError, match=rf"{FLAT}\.dora_scale is \[1, 64\], only DoRA over outputs"):
        read_adapter("t.safetensors")
    del arrays[f"{FLAT}.dora_scale"]
    write_safetensors(Path("m.safetensors"), arrays)
    with pytest.raises(ConvertError, match=f"{Q} has no magnitude vector"):
        read_adapter("m.safetensors")
    header = {"lora_adapter_metadata": json.dumps({"r": 3, "lora_alpha": 4, "use_dora": True})}
    write_safetensors(Path("d.safetensors"), {f"transformer.{n}": a for n, a in adapter.state.items()}, header)
    with pytest.raises(ConvertError, match="without its magnitude vectors"):
        read_adapter("d.safetensors")


def test_the_fused_model_computes_what_vanilla_peft_does() -> None:
    torch, peft = require("torch"), require("peft")
    from musiclora.backends.torch.diffrhythm import DiT

    assert CliRunner().invoke(main, ["fuse", "--adapter-dir", "a", "--output-dir", "fused"]).exit_code == 0
    model = peft.PeftModel.from_pretrained(DiT.from_folder(Path("base")), "a").merge_and_unload()
    with torch.no_grad():
        expected, found = model.state_dict(), DiT.from_folder(Path("fused")).state_dict()
    for name, tensor in expected.items():  # a norm of up to 512 squares, a sum over the rank, a few more
        tolerance.assert_near(found[name], tensor, tolerance.rounding(512 + 16, max(1.0, tensor.abs().max())), name)
    before = DiT.from_folder(Path("base")).state_dict()
    assert float((found[f"{Q}.weight"] - before[f"{Q}.weight"]).abs().max()) > 0.05
