"""GPT-2 folders against transformers and mlx-lm."""

import json
from pathlib import Path

import numpy as np
import pytest
import tolerance
from require import require

from musiclora.convert.errors import ConvertError
from musiclora.convert.files.fingerprint import find_tokenizer_file
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, read_checkpoint, write_checkpoint

CONFIGS = {
    "rectangular": Gpt2Config(29, 16, 12, 2, 3, 48, eos_token_id=2, bos_token_id=1),
    "narrow mlp": Gpt2Config(7, 9, 8, 1, 2, 24, layer_norm_epsilon=1e-3),
    "square everywhere": Gpt2Config(8, 8, 8, 3, 1, 8, activation_function="gelu_pytorch_tanh"),
    "scaled attention": Gpt2Config(11, 8, 8, 3, 2, 32, scale_attn_by_inverse_layer_idx=True),
}
by_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def random_tensors(config: Gpt2Config) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.standard_normal(s).astype(np.float32) * 0.3 for name, s in config.tensor_shapes().items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(np.array_equal(first[n], second[n]) for n in first)


@by_config
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["hf", "mlx"])
def test_write_then_read_is_exact_in_every_layout_and_dtype(
    config: Gpt2Config, dtype: str, layout: str, tmp_path: Path
) -> None:
    tensors = random_tensors(config)
    write_checkpoint(tmp_path / "a", config, iter(tensors.items()), layout, dtype=dtype)
    first = read_checkpoint(tmp_path / "a")
    assert (first.layout, first.config, first.dtype) == (layout, config, dtype)
    other = "mlx" if layout == "hf" else "hf"
    write_checkpoint(tmp_path / "b", config, first.tensors(), other, dtype=dtype)
    write_checkpoint(tmp_path / "c", config, read_checkpoint(tmp_path / "b").tensors(), layout, dtype=dtype)
    assert (tmp_path / "c/model.safetensors").read_bytes() == (tmp_path / "a/model.safetensors").read_bytes()
    if dtype == "float32":
        assert same(read_checkpoint(tmp_path / "b").load(), tensors)


@by_config
def test_transformers_loads_our_folder_without_a_missing_or_unexpected_key(config: Gpt2Config, tmp_path: Path) -> None:
    transformers = require("transformers")
    tensors = random_tensors(config)
    write_checkpoint(tmp_path / "a", config, tensors, "hf")
    model, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "a", output_loading_info=True)
    assert not any(info.values())
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert np.array_equal(state.pop("lm_head.weight"), tensors["transformer.wte.weight"])
    assert same(state, tensors)
    model.save_pretrained(tmp_path / "b")
    again = read_checkpoint(tmp_path / "b")
    assert again.config == config
    assert same(again.load(), tensors)


def test_mlx_lm_loads_our_folder_strictly_and_its_logits_are_those_of_transformers(tmp_path: Path) -> None:
    torch, transformers = require("torch"), require("transformers")
    mx, utils = require("mlx.core"), require("mlx_lm.utils")
    config = CONFIGS["rectangular"]
    for layout in ("hf", "mlx"):
        write_checkpoint(tmp_path / layout, config, random_tensors(config), layout)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 11))
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    expected = model(torch.from_numpy(tokens)).logits.detach().numpy()
    found = np.array(utils.load_model(tmp_path / "mlx", strict=True)[0](mx.array(tokens)))
    tolerance.assert_near(found, expected, tolerance.logits(expected))


@pytest.fixture
def hf_file(tmp_path: Path) -> Path:
    config = CONFIGS["rectangular"]
    write_checkpoint(tmp_path / "m", config, random_tensors(config), "hf")
    return tmp_path / "m" / "model.safetensors"


def rewrite(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.unlink()
    write_safetensors(path, arrays)


def test_bare_names_masks_and_a_tied_head_read_the_same(hf_file: Path) -> None:
    arrays = read_safetensors(hf_file)
    extra = {"h.0.attn.bias": np.ones((1, 1, 16, 16), np.uint8), "h.1.attn.masked_bias": np.array(-1e4, np.float32)}
    bare = {name.removeprefix("transformer."): array for name, array in arrays.items()}
    rewrite(hf_file, bare | extra | {"lm_head.weight": arrays["transformer.wte.weight"]})
    checkpoint = read_checkpoint(hf_file.parent)
    assert same(checkpoint.load(), arrays)
    assert "lm_head.weight" in checkpoint.dropped
    assert "mask" in checkpoint.dropped["transformer.h.0.attn.bias"]


def test_an_untied_head_is_refused_and_never_dropped_in_silence(hf_file: Path) -> None:
    arrays = read_safetensors(hf_file)
    rewrite(hf_file, arrays | {"lm_head.weight": arrays["transformer.wte.weight"] + 1})
    with pytest.raises(ConvertError, match=r"lm_head\.weight differs from wte"):
        read_checkpoint(hf_file.parent).load()


def test_names_with_and_without_the_prefix_in_one_file_are_all_named(hf_file: Path) -> None:
    arrays = read_safetensors(hf_file)
    names = ["ln_f.bias", "wte.weight"]
    rewrite(hf_file, arrays | {name: arrays[f"transformer.{name}"] for name in names})
    with pytest.raises(ConvertError, match=r"with and without its prefix; transformer\..* with and without"):
        read_checkpoint(hf_file.parent)


def test_shards_named_by_an_index_read_as_one(hf_file: Path) -> None:
    arrays = read_safetensors(hf_file)
    hf_file.unlink()
    names = list(arrays)
    shards = {"a.safetensors": names[:7], "b.safetensors": names[7:]}
    for file, part in shards.items():
        write_safetensors(hf_file.parent / file, {n: arrays[n] for n in part})
    index = hf_file.parent / "model.safetensors.index.json"
    weight_map = {n: file for file, part in shards.items() for n in part}
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert same(read_checkpoint(hf_file.parent).load(), arrays)
    index.write_text(json.dumps({"weight_map": weight_map | {names[0]: "../a.safetensors"}}))
    with pytest.raises(ConvertError, match="no file name"):
        read_checkpoint(hf_file.parent)
    index.write_text(json.dumps({"weight_map": weight_map | {names[0]: "b.safetensors"}}))
    with pytest.raises(ConvertError, match=r"is not in b.safetensors"):
        read_checkpoint(hf_file.parent)


def test_a_missing_a_surplus_and_a_transposed_tensor_are_named_together(hf_file: Path) -> None:
    arrays = read_safetensors(hf_file)
    del arrays["transformer.ln_f.bias"]
    arrays["transformer.h.0.attn.c_attn.weight"] = arrays["transformer.h.0.attn.c_attn.weight"].T
    rewrite(hf_file, arrays | {"transformer.h.2.ln_1.bias": np.zeros(12, np.float32)})
    with pytest.raises(ConvertError) as error:
        read_checkpoint(hf_file.parent)
    assert all(
        words in str(error.value)
        for words in (
            "ln_f.bias is missing",
            "c_attn.weight is [36, 12], expected [12, 36]",
            "h.2.ln_1.bias is surplus",
        )
    )


def test_a_nan_is_refused_by_name(hf_file: Path) -> None:
    arrays = read_safetensors(hf_file)
    arrays["transformer.ln_f.bias"][3] = np.nan
    rewrite(hf_file, arrays)
    with pytest.raises(ConvertError, match=r"ln_f\.bias has 1 non-finite value"):
        read_checkpoint(hf_file.parent).load()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "llama"}, "not GPT-2"),
        ({"model_type": None}, "not GPT-2"),
        ({"scale_attn_by_inverse_layer_idx": "yes"}, "scale_attn_by_inverse_layer_idx"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"quantization": {"bits": 4}}, "quantization"),
        ({"activation_function": "mish"}, "mish"),
        ({"n_head": 5}, "no multiple"),
        ({"n_layer": 10**9}, "n_layer"),
        ({"n_embd": "12"}, "n_embd"),
        ({"n_embd": -12}, "n_embd"),
        ({"vocab_size": 1.5}, "vocab_size"),
        ({"layer_norm_epsilon": "tiny"}, "layer_norm_epsilon"),
    ],
    ids=str,
)
def test_a_configuration_that_changes_the_maths_is_refused_by_key(change: dict[str, object], named: str) -> None:
    with pytest.raises(ConvertError, match=named):
        Gpt2Config.from_json(CONFIGS["rectangular"].to_json() | change)


def test_a_sparse_configuration_means_what_transformers_takes_it_for() -> None:
    transformers = require("transformers")
    sparse = {"model_type": "gpt2", "hidden_size": 24, "n_head": 3, "num_hidden_layers": 2}
    theirs = transformers.GPT2Config(**sparse)
    ours = Gpt2Config.from_json(sparse)
    assert (ours.n_embd, ours.n_layer, ours.n_inner) == (24, 2, 96)
    for key in ("vocab_size", "n_positions", "n_head", "activation_function", "layer_norm_epsilon", "eos_token_id"):
        assert getattr(ours, key) == getattr(theirs, key)


def test_fresh_weights_have_the_widths_deviations_and_do_not_depend_on_the_number_of_layers() -> None:
    config = Gpt2Config(300, 64, 96, 2, 3, 384)
    tensors = fresh_tensors(config, 7)
    assert tensors["transformer.wte.weight"].std() == pytest.approx(96**-0.5, rel=0.03)
    assert tensors["transformer.h.1.mlp.c_proj.weight"].std() == pytest.approx(96**-0.5 / 2, rel=0.03)
    assert tensors["transformer.h.1.mlp.c_fc.weight"].std() == pytest.approx(96**-0.5, rel=0.03)
    assert (tensors["transformer.h.0.ln_2.weight"] == 1).all()
    assert not any(array.any() for name, array in tensors.items() if name.endswith(".bias"))
    deeper = fresh_tensors(Gpt2Config(300, 64, 96, 3, 3, 384), 7)
    assert np.array_equal(deeper["transformer.h.1.attn.c_attn.weight"], tensors["transformer.h.1.attn.c_attn.weight"])


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 200_000], ids=["empty", "list", "cut", "deep"])
def test_a_config_that_is_no_json_object_is_a_clear_error(content: bytes, hf_file: Path) -> None:
    (hf_file.parent / "config.json").write_bytes(content)
    with pytest.raises(ConvertError, match="JSON"):
        read_checkpoint(hf_file.parent)


def test_miditoks_tokenizer_has_a_name_in_an_mlx_folder_that_mlx_lm_leaves_alone(tmp_path: Path) -> None:
    tokenizer, other = b'{"tokenization": "REMI", "config": {}}', b'{"version": "1.0", "added_tokens": []}'
    tensors = random_tensors(CONFIGS["narrow mlp"])
    for layout, content, name in (
        ("mlx", tokenizer, "tokenizer.conf"),
        ("mlx", other, "tokenizer.json"),
        ("hf", tokenizer, "tokenizer.json"),
    ):
        for given in ("tokenizer.json", "tokenizer.conf"):
            folder = tmp_path / f"{layout}{name}{given}"
            write_checkpoint(folder, CONFIGS["narrow mlp"], tensors, layout, extra_files={given: content})
            expected = given if content is other else name
            assert {path.name for path in folder.glob("tokenizer*")} == {expected}
            assert find_tokenizer_file(folder) == folder / expected
    (folder / "tokenizer.conf").write_bytes(tokenizer)
    (folder / "tokenizer.json").write_bytes(other)
    assert find_tokenizer_file(folder) == folder / "tokenizer.conf"
