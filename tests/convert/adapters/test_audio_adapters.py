"""Adapters of DiffRhythm's transformer: PEFT, diffusers, kohya and lora_music_generation."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tolerance
from require import require

from musiclora.conversion.adapter import convert_adapter, read_adapter
from musiclora.convert.adapters.diffusers import FILE, read_diffusers, write_diffusers
from musiclora.convert.adapters.kohya import read_kohya, write_kohya
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.lora_music_generation import read_lora_music_generation
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.errors import ConfigError, ConvertError
from musiclora.convert.files.safetensors_file import read_safetensors, safetensors_header, write_safetensors
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, write_diffrhythm

CONFIG = DiffRhythmConfig(32, 2, 2, text_dim=24, conv_layers=1, mel_dim=8, text_num_embeds=5)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "time_mlp.0", "time_mlp.2", "norm_out.linear", "proj_out")
SPECS = {
    "the published recipe": LoraSpec(8, 16.0, 0.25, TARGETS),
    "square at full rank": LoraSpec(32, 7.0, 0.0, ("q_proj",)),
    "rslora, odd scale": LoraSpec(3, 5.0, 0.0, ("gate_proj", "down_proj", "pwconv1"), rslora=True),
}
by_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def random_state(spec: LoraSpec) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = state_shapes(spec, CONFIG.linear_shapes())
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(np.array_equal(first[n], second[n]) for n in first)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))


@by_spec
@pytest.mark.parametrize(
    "route", [["diffusers"], ["kohya"], ["diffusers", "kohya"], ["kohya", "diffusers"]], ids=" ".join
)
def test_peft_to_others_and_back_keeps_every_value_the_scale_and_the_record(
    spec: LoraSpec, route: list[str], tmp_path: Path
) -> None:
    state, record = random_state(spec), {"family": "audio", "note": "ü"}
    write_peft(tmp_path / "0", spec, state, base_model="base", task_type=None, fan_in_fan_out=False, record=record)
    last = "0"
    for k, to in enumerate([*route, "peft"]):
        name = f"{k + 1}.safetensors" if to == "kohya" else str(k + 1)
        result = convert_adapter(str(tmp_path / last), tmp_path / name, to)
        assert result.update_difference is not None
        assert result.update_difference == 0
        last = name
    back = read_peft(tmp_path / last)
    assert same(back.state, state)
    assert back.spec.scale == spec.scale
    assert (back.base_model, back.record) == ("base", record)
    assert (back.config["fan_in_fan_out"], back.config["task_type"]) == (False, None)
    assert set(state_shapes(back.spec, CONFIG.linear_shapes())) == set(state)


def test_kohya_names_are_flat_and_carry_alpha(tmp_path: Path) -> None:
    spec = SPECS["the published recipe"]
    state = random_state(spec)
    write_kohya(tmp_path / "k.safetensors", LoraAdapter.from_spec(spec, state, "b"))
    stored = read_safetensors(tmp_path / "k.safetensors")
    name = "lora_unet_transformer_blocks_1_self_attn_q_proj"
    assert np.array_equal(
        stored[f"{name}.lora_down.weight"], state["transformer_blocks.1.self_attn.q_proj.lora_A.weight"]
    )
    assert np.array_equal(
        stored[f"{name}.lora_up.weight"], state["transformer_blocks.1.self_attn.q_proj.lora_B.weight"]
    )
    assert stored[f"{name}.alpha"] == 16
    (tmp_path / "k").write_bytes((tmp_path / "k.safetensors").read_bytes())  # the name of a file says nothing
    assert same(read_adapter(str(tmp_path / "k"))[1].state, state)
    assert safetensors_header(tmp_path / "k.safetensors")[1]["ss_network_dim"] == "8"


def test_a_kohya_file_with_its_own_ranks_alphas_and_half_precision_reads_by_value(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    q, up = "transformer_blocks.0.self_attn.q_proj", "transformer_blocks.1.mlp.up_proj"
    arrays = {
        f"lora_unet_{q.replace('.', '_')}.lora_down.weight": rng.standard_normal((4, 32)).astype(np.float16),
        f"lora_unet_{q.replace('.', '_')}.lora_up.weight": rng.standard_normal((32, 4)).astype(np.float16),
        f"lora_unet_{q.replace('.', '_')}.alpha": np.array(2, np.float16),
        f"lora_unet_{up.replace('.', '_')}.lora_down.weight": rng.standard_normal((2, 32)).astype(np.float16),
        f"lora_unet_{up.replace('.', '_')}.lora_up.weight": rng.standard_normal((64, 2)).astype(np.float16),
    }
    write_safetensors(tmp_path / "k.safetensors", arrays)
    adapter = read_kohya(tmp_path / "k.safetensors")
    assert (adapter.ranks, adapter.scales) == ({q: 4, up: 2}, {q: 0.5, up: 1.0})
    convert_adapter(str(tmp_path / "k.safetensors"), tmp_path / "p", "peft")
    found = read_peft(tmp_path / "p")
    down_q, up_q, _, down_up, up_up = arrays.values()
    for module, down, up_matrix, scale in ((q, down_q, up_q, 0.5), (up, down_up, up_up, 1.0)):
        expected = scale * up_matrix.astype(np.float64) @ down.astype(np.float64)
        update = found.state[f"{module}.lora_B.weight"].astype(np.float64) @ found.state[f"{module}.lora_A.weight"]
        np.testing.assert_allclose(found.scales[module] * update, expected, rtol=1e-6, atol=1e-6)


def test_diffusers_settings_are_read_with_patterns_and_without_them_the_scale_is_one(tmp_path: Path) -> None:
    spec = LoraSpec(4, 8.0, 0.0, ("q_proj",))
    state = {f"transformer.{name}": array for name, array in random_state(spec).items()}
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "alpha_pattern": {"transformer_blocks.1.*": 2}}
    for k, header in enumerate([{f"transformer.{key}": value for key, value in config.items()}, config, None]):
        text = {"lora_adapter_metadata": json.dumps(header)} if header else None
        (tmp_path / str(k)).mkdir()
        write_safetensors(tmp_path / str(k) / FILE, state, text)
        scales = read_diffusers(tmp_path / str(k)).scales
        assert sorted(scales.values()) == ([0.5, 2.0] if header else [1.0, 1.0])
        assert same(read_adapter(str(tmp_path / str(k) / FILE))[1].state, random_state(spec))


@pytest.mark.parametrize("prefix", ["", "transformer."], ids=["bare", "prefixed"])
def test_a_lora_music_generation_file_reads_transposed_at_alpha_sixteen(prefix: str, tmp_path: Path) -> None:
    torch = require("torch")
    spec = SPECS["the published recipe"]
    state = random_state(spec)
    saved = {
        prefix + name.removesuffix(".weight"): torch.from_numpy(np.ascontiguousarray(array.T))
        for name, array in state.items()
    }
    torch.save({"lora_state_dict": saved, "step": 12, "loss": 0.5}, tmp_path / "lora.pt")
    adapter = read_lora_music_generation(tmp_path / "lora.pt")
    assert same(adapter.state, state)
    assert set(adapter.scales.values()) == {2.0}
    convert_adapter(str(tmp_path / "lora.pt"), tmp_path / "p", "peft")
    assert same(read_peft(tmp_path / "p").state, state)


def test_vanilla_peft_loads_a_converted_audio_adapter_and_computes_the_same_update(tmp_path: Path) -> None:
    torch, peft = require("torch"), require("peft")
    spec = LoraSpec(3, 5.0, 0.0, ("q_proj", "up_proj"))
    state = random_state(spec)
    write_kohya(tmp_path / "k.safetensors", LoraAdapter.from_spec(spec, state, "b"))
    convert_adapter(str(tmp_path / "k.safetensors"), tmp_path / "p", "peft")
    model = torch.nn.Module()
    for name, (out, inputs) in CONFIG.linear_shapes().items():
        node = model
        for part in name.split(".")[:-1]:
            if not hasattr(node, part):
                node.add_module(part, torch.nn.Module())
            node = getattr(node, part)
        node.add_module(name.rsplit(".", 1)[-1], torch.nn.Linear(inputs, out, bias=False))
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")
        merged = peft.PeftModel.from_pretrained(model, tmp_path / "p").merge_and_unload()
    for name, tensor in merged.state_dict().items():
        module = name.removesuffix(".weight")
        expected = before[name]
        if f"{module}.lora_A.weight" in state:
            update = state[f"{module}.lora_B.weight"] @ state[f"{module}.lora_A.weight"]
            expected = expected + spec.scale * update
        # A sum over a rank of 3, the scale and the base's weight; largest entries are no larger than a few of these.
        tolerance.assert_near(tensor, expected, tolerance.rounding(3 + 3, 3 * max(1.0, np.abs(expected).max())), name)


@pytest.mark.usefixtures("any_backend")
def test_the_shapes_are_checked_against_a_model_that_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    config = replace(CONFIG, dim=64, text_dim=512)  # what a backend can compute: 32 heads of an even size
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in config.tensor_shapes().items()}
    write_diffrhythm(tmp_path / "base", config, tensors.items(), "mlx", "float32")
    spec = LoraSpec(2, 1.0, 0.0, ("proj_out",))
    state = {"proj_out.lora_A.weight": np.ones((2, 64), np.float32), "proj_out.lora_B.weight": np.ones((8, 2))}
    write_peft(tmp_path / "a", spec, state, base_model="", task_type=None, fan_in_fan_out=False)
    done = convert_adapter(str(tmp_path / "a"), tmp_path / "ok.safetensors", "kohya", str(tmp_path / "base"))
    assert done.notes
    assert done.velocity_difference == 0
    write_peft(tmp_path / "w", spec, random_state(spec), base_model="", task_type=None, fan_in_fan_out=False)
    with pytest.raises(ConvertError, match=r"proj_out\.lora_A\.weight is \[2, 32\], expected \[2, 64\]"):
        convert_adapter(str(tmp_path / "w"), tmp_path / "out.safetensors", "kohya", str(tmp_path / "base"))
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("lora_unet_proj_out.hada_w1_a", "LoHa"),
        ("lora_unet_proj_out.lokr_w1", "LoKr"),
        ("lora_unet_proj_out.dora_scale", r"only DoRA over outputs, \[out, 1\]"),
        ("lora_te_text_model.lora_down.weight", "text encoder"),
        ("lora_unet_down_blocks_0_proj.lora_down.weight", "no linear layer of DiffRhythm"),
        ("lora_unet_proj_out.lora_down.weight", r"proj_out\.lora_B\.weight is missing"),
    ],
    ids=["LoHa", "LoKr", "DoRA over inputs", "text encoder", "another model", "half a pair"],
)
def test_what_is_not_our_lora_is_refused_by_name(name: str, named: str, tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "k.safetensors", {name: np.ones((2, 32), np.float32), "lora_unet_proj_out.alpha": np.ones(1)}
    )
    with pytest.raises(ConvertError, match=named):
        read_kohya(tmp_path / "k.safetensors")


@pytest.mark.parametrize("alpha", [np.nan, np.inf, 1e300], ids=["nan", "infinite", "beyond float32"])
def test_an_alpha_that_is_no_finite_number_is_refused_by_its_own_name(alpha: float, tmp_path: Path) -> None:
    arrays = {
        "lora_unet_proj_out.lora_down.weight": np.ones((2, 32), np.float32),
        "lora_unet_proj_out.lora_up.weight": np.ones((8, 2), np.float32),
        "lora_unet_proj_out.alpha": np.array(alpha),
    }
    write_safetensors(tmp_path / "k.safetensors", arrays)
    with pytest.raises(ConvertError, match=r"lora_unet_proj_out\.alpha is no single finite number"):
        read_kohya(tmp_path / "k.safetensors")


@pytest.mark.parametrize(
    ("part", "named"),
    [("lokr_w1", "LoKr"), ("hada_w1_a", "LoHa"), ("oft_r", "OFT"), ("lora_embedding_A", "embedding")],
)
def test_other_methods_in_diffusers_form_are_refused_by_name(part: str, named: str, tmp_path: Path) -> None:
    array = f"transformer.proj_out.{part}"
    write_safetensors(tmp_path / "d.safetensors", {array: np.ones((2, 32), np.float32)})
    with pytest.raises(ConvertError, match=rf"{array} \({named} is not supported\)"):
        read_diffusers(tmp_path / "d.safetensors")


def test_formats_of_the_other_family_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    spec = SPECS["square at full rank"]
    write_peft(tmp_path / "a", spec, random_state(spec), base_model="", task_type=None, fan_in_fan_out=False)
    with pytest.raises(ConfigError, match="it can become peft, diffusers, kohya, not mlx-lm"):
        convert_adapter(str(tmp_path / "a"), tmp_path / "out", "mlx-lm")
    gpt2 = {f"transformer.h.0.attn.c_attn.lora_{p}.weight": np.ones((2, 2), np.float32) for p in "AB"}
    write_peft(tmp_path / "g", LoraSpec(2, 1.0, 0.0, ("c_attn",)), gpt2, base_model="")
    with pytest.raises(ConfigError, match="it can become peft, mlx-lm, not kohya"):
        convert_adapter(str(tmp_path / "g"), tmp_path / "out", "kohya")
    for name in ("out", "out.jpg"):
        with pytest.raises(ConfigError, match=rf"{name}: --to kohya writes one file; .* ends in \.safetensors"):
            convert_adapter(str(tmp_path / "a"), tmp_path / name, "kohya")
        assert not (tmp_path / name).exists()
    with pytest.raises(ConvertError, match="not linear layers of DiffRhythm"):
        write_diffusers(tmp_path / "out", LoraAdapter.from_spec(LoraSpec(2, 1.0, 0.0, ("c_attn",)), gpt2))
    assert not (tmp_path / "out").exists()


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    spec = SPECS["square at full rank"]
    write_peft(tmp_path / "a", spec, random_state(spec), base_model="", task_type=None, fan_in_fan_out=False)
    (tmp_path / "k.safetensors").write_text("precious")
    with pytest.raises(ConfigError, match="exists already"):
        convert_adapter(str(tmp_path / "a"), tmp_path / "k.safetensors", "kohya")
    assert (tmp_path / "k.safetensors").read_text() == "precious"
