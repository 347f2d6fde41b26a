"""LoRA files under the names that other tools give their arrays."""

import json
from pathlib import Path

import numpy as np
import pytest

from musiclora.conversion.adapter import convert_adapter, read_adapter
from musiclora.conversion.blend import blend_adapters
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint

QUERY, OUT = "transformer_blocks.0.self_attn.q_proj", "proj_out"
RNG = np.random.default_rng(0)
STATE = {
    module: (RNG.standard_normal((2, 32)).astype(np.float32), RNG.standard_normal((width, 2)).astype(np.float32))
    for module, width in ((QUERY, 32), (OUT, 8))
}


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def flat(prefix: str) -> tuple[str, ...]:
    return tuple(prefix + module.replace(".", "_") for module in STATE)


def dotted(prefix: str) -> tuple[str, ...]:
    return tuple(prefix + module for module in STATE)


PAIRS = {
    "PEFT": (".lora_A.weight", ".lora_B.weight"),
    "PEFT with the adapter's name": (".lora_A.default.weight", ".lora_B.default.weight"),
    "kohya": (".lora_down.weight", ".lora_up.weight"),
    "diffusers of old": (".lora.down.weight", ".lora.up.weight"),
    "diffusers of very old": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
}
PATHS = {
    "ComfyUI": dotted("diffusion_model."),
    "diffusers": dotted("transformer."),
    "bare PEFT": dotted("base_model.model."),
    "PEFT on the CFM": dotted("base_model.model.transformer."),
    "no prefix": dotted(""),
    "a compiled model": dotted("_orig_mod."),
    "a parallel model": dotted("module."),
    "kohya": flat("lora_unet_"),
    "kohya for transformers": flat("lora_transformer_"),
    "LyCORIS": flat("lycoris_"),
}


def write_file(paths: tuple[str, ...], pair: tuple[str, str], alpha: float | None = None, trail: int = 0) -> None:
    arrays = {}
    for path, matrices in zip(paths, STATE.values(), strict=True):
        for ending, matrix in zip(pair, matrices, strict=True):
            arrays[path + ending] = matrix.reshape(*matrix.shape, *[1] * trail)
        if alpha is not None:
            arrays[f"{path}.alpha"] = np.array(alpha, np.float32)
    write_safetensors(Path("x.safetensors"), arrays)


@pytest.mark.parametrize("alpha", [None, 6.0], ids=["no alpha", "alpha"])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("paths", PATHS.values(), ids=PATHS.keys())
def test_every_spelling_reads_by_value_with_its_scale(
    paths: tuple[str, ...], pair: tuple[str, str], alpha: float | None
) -> None:
    write_file(paths, pair, alpha)
    _, adapter = read_adapter("x.safetensors")
    assert set(adapter.ranks) == set(STATE)
    assert set(adapter.scales.values()) == {1.0 if alpha is None else 3.0}
    for module, (a, b) in STATE.items():
        assert np.array_equal(adapter.state[f"{module}.lora_A.weight"], a)
        assert np.array_equal(adapter.state[f"{module}.lora_B.weight"], b)


def test_kernels_of_one_by_one_are_matrices_and_larger_ones_are_named() -> None:
    write_file(PATHS["ComfyUI"], PAIRS["kohya"], 2.0, trail=2)
    assert read_adapter("x.safetensors")[1].state[f"{OUT}.lora_A.weight"].shape == (2, 32)
    write_safetensors(Path("y.safetensors"), {"diffusion_model.proj_out.lora_down.weight": np.ones((2, 32, 3, 1))})
    with pytest.raises(ConvertError, match=r"\[2, 32, 3, 1\], the kernel of a convolution"):
        read_adapter("y.safetensors")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        (
            "model_ema.proj_out.lora_A.weight",
            r"prefix 'model_ema\.'; known prefixes are base_model\.model\., ",
        ),
        ("lora_dit_proj_out.lora_down.weight", "the unknown prefix 'lora_dit_'"),
        ("unet.down.0.to_q.lora_A.weight", "is no linear layer of DiffRhythm"),
        ("diffusion_model.proj_out.diff", "is no LoRA array"),
        ("lycoris_proj_out.hada_w1_a", "LoHa is not supported"),
        ("lora_unet_proj_out.lora_mid.weight", "Tucker is not supported"),
        ("proj_out.lora_down.weight", "comes twice, under another name"),
        ("lora_unet_time_embed_time_mlp_0.alpha", r"the alpha of time_embed\.time_mlp\.0 has no LoRA arrays beside it"),
    ],
    ids=["prefix", "flat prefix", "another model", "no LoRA", "LoHa", "Tucker", "twice", "a lone alpha"],
)
def test_what_is_not_understood_is_named_with_its_reason(name: str, named: str) -> None:
    write_file(PATHS["kohya"], PAIRS["kohya"])
    arrays = read_safetensors(Path("x.safetensors")) | {
        name: np.ones((2, 32) if "alpha" not in name else (), np.float32)
    }
    write_safetensors(Path("y.safetensors"), arrays)
    with pytest.raises(ConvertError, match=named):
        read_adapter("y.safetensors")


def test_a_scale_that_no_file_states_is_said() -> None:
    write_file(PATHS["ComfyUI"], PAIRS["PEFT"])
    assert "no alpha is stated; " in " ".join(convert_adapter("x.safetensors", Path("p"), "peft").notes)
    Path("x.safetensors").unlink()
    write_file(PATHS["kohya"], PAIRS["kohya"])
    assert "no alpha is stated; " in " ".join(convert_adapter("x.safetensors", Path("k"), "peft").notes)
    arrays = read_safetensors(Path("x.safetensors")) | {"lora_unet_proj_out.alpha": np.array(4, np.float32)}
    write_safetensors(Path("some.safetensors"), arrays)
    said = f"no alpha is stated for {QUERY}; it was taken for the rank (scale 1)"
    assert said in convert_adapter("some.safetensors", Path("s"), "peft").notes
    Path("x.safetensors").unlink()
    write_file(PATHS["ComfyUI"], PAIRS["PEFT"], 4.0)
    assert not convert_adapter("x.safetensors", Path("q"), "peft").notes


def test_a_bare_peft_file_of_gpt2_is_read_with_scale_one() -> None:
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_"
    arrays = {f"{name}A.weight": np.ones((2, 4), np.float32), f"{name}B.weight": np.ones((12, 2), np.float32)}
    write_safetensors(Path("x.safetensors"), arrays)
    done = convert_adapter("x.safetensors", Path("out"), "peft")
    assert "no alpha is stated" in done.notes[0]
    assert read_peft(Path("out")).scales == {"transformer.h.0.attn.c_attn": 1.0}


@pytest.mark.parametrize(
    ("targets", "pattern"),
    [((OUT, "q_proj"), "self_attn.q_proj"), ((f"transformer.{OUT}", f"transformer.{QUERY}"), f"transformer.{QUERY}")],
    ids=["names", "paths"],
)
def test_a_peft_folder_trained_on_the_cfm_reads_as_one_of_its_transformer(
    targets: tuple[str, ...], pattern: str
) -> None:
    state = {}
    for module, (a, b) in STATE.items():
        state |= {f"transformer.{module}.lora_A.weight": a, f"transformer.{module}.lora_B.weight": b}
    write_peft(Path("w"), LoraSpec(2, 4.0, 0.0, targets), state, base_model="", task_type=None, fan_in_fan_out=False)
    config = json.loads((Path("w") / "adapter_config.json").read_text()) | {"alpha_pattern": {pattern: 10}}
    (Path("w") / "adapter_config.json").write_text(json.dumps(config))
    adapter = read_peft(Path("w"))
    assert adapter.scales == {QUERY: 5.0, OUT: 2.0}
    convert_adapter("w", Path("out"), "peft")
    copy = read_peft(Path("out"))
    assert (copy.scales, copy.spec.targets) == (adapter.scales, adapter.spec.targets)
    assert np.array_equal(copy.state[f"{OUT}.lora_A.weight"], STATE[OUT][0])


CONFIG = Gpt2Config(vocab_size=40, n_positions=16, n_embd=12, n_layer=1, n_head=3, n_inner=48)


@pytest.fixture
def saved_whole() -> dict[str, np.ndarray]:
    """Make a base and an adapter as PEFT saves it with `save_embedding_layers`; return the adapter's arrays."""
    tensors = fresh_tensors(CONFIG, 0)
    write_checkpoint(Path("base"), CONFIG, tensors, "hf")
    name = "transformer.h.0.attn.c_attn.lora_"
    state = {f"{name}A.weight": np.ones((2, 12), np.float32), f"{name}B.weight": np.ones((36, 2), np.float32)}
    write_peft(Path("a"), LoraSpec(2, 4.0, 0.0, ("c_attn",)), state, base_model="base")
    whole = tensors["transformer.wte.weight"]
    arrays = read_safetensors(Path("a/adapter_model.safetensors"))
    return arrays | {f"base_model.model.{key}.weight": whole for key in ("transformer.wte", "lm_head")}


def store(arrays: dict[str, np.ndarray]) -> None:
    Path("a/adapter_model.safetensors").unlink()
    write_safetensors(Path("a/adapter_model.safetensors"), arrays)


@pytest.mark.usefixtures("no_backend")
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
def test_saved_embeddings_that_equal_the_bases_are_left_out(saved_whole: dict[str, np.ndarray], dtype: type) -> None:
    store({name: array.astype(dtype) for name, array in saved_whole.items()})
    done = convert_adapter("a", Path("out"), "peft", "base")
    assert any("a copy of the base's embeddings" in note for note in done.notes)
    assert len(read_safetensors(Path("out/adapter_model.safetensors"))) == 2
    with pytest.raises(ConvertError, match="cannot be blended"):
        blend_adapters(["a", "out"], Path("blend"))


@pytest.mark.usefixtures("no_backend")
def test_saved_embeddings_that_were_trained_or_cannot_be_compared_are_refused(
    saved_whole: dict[str, np.ndarray],
) -> None:
    store(saved_whole)
    config = Path("a/adapter_config.json")
    config.write_text(config.read_text().replace('"base"', "null"))
    with pytest.raises(ConvertError, match="holds embeddings; give --model"):
        convert_adapter("a", Path("out"), "peft")
    store(saved_whole | {"base_model.model.lm_head.weight": saved_whole["base_model.model.lm_head.weight"] + 1})
    with pytest.raises(ConvertError, match=r"lm_head\.weight is not that of base"):
        convert_adapter("a", Path("out"), "peft", "base")
    assert not Path("out").exists()
