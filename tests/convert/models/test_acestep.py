"""ACE-Step's checkpoints: names and shapes, every container, and folders that hold something else or too little."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import acestep_toys as toys
import numpy as np
import pytest
from require import require

from musiclora.convert.errors import ConvertError
from musiclora.convert.files.fingerprint import fingerprint_folder
from musiclora.convert.files.safetensors_file import read_safetensors, safetensors_header, write_safetensors
from musiclora.convert.models.acestep import read_acestep, tensor_shapes
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating
from musiclora.convert.models.acestep_names import rename_attention, restore_attention
from musiclora.convert.models.acestep_write import write_acestep
from musiclora.convert.models.oobleck import OobleckConfig, write_oobleck

by_config = pytest.mark.parametrize("config", [toys.SMALL, toys.EVEN], ids=["xl", "with biases"])
STACK = StackConfig(2048, 6144, 16, 8, 128)
PUBLISHED = AceStepConfig(STACK, STACK, alternating(24))


def test_the_published_model_has_the_parameters_that_users_count() -> None:
    modules = PUBLISHED.linear_shapes()
    attention = [shape for name, shape in modules.items() if "_attn." in name]
    assert len(attention) == 192
    assert sum(64 * (out + inputs) for out, inputs in attention) == 2 * 22_020_096
    transformer = {n: s for n, s in tensor_shapes(PUBLISHED).items() if n.startswith("decoder.")}
    assert sum(math.prod(shape) for shape in transformer.values()) == 1_575_458_880


@by_config
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_container_gives_back_every_bit(config: AceStepConfig, dtype: str, tmp_path: Path) -> None:
    if dtype == "bfloat16":
        import ml_dtypes  # noqa: F401 - registers the name with numpy
    tensors = toys.write_random(tmp_path / "hf", config, "hf", dtype)
    for source, to in (("hf", "diffusers"), ("diffusers", "mlx"), ("mlx", "back")):
        checkpoint = read_acestep(tmp_path / source)
        assert (checkpoint.layout, checkpoint.config) == (source, config)
        toys.assert_same(dict(checkpoint.tensors()), tensors)
        layout = "hf" if to == "back" else to
        write_acestep(
            tmp_path / to,
            config,
            checkpoint.tensors,
            layout,
            checkpoint.dtypes,
            other_settings=checkpoint.other_settings,
        )
    for name in ("config.json", "model.safetensors", "silence_latent.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes(), name


def test_the_original_is_read_with_its_pickled_silence_and_carries_its_tokenizer(tmp_path: Path) -> None:
    tensors = toys.write_original(tmp_path / "a", toys.SMALL)
    checkpoint = read_acestep(tmp_path / "a")
    toys.assert_same(dict(checkpoint.tensors()), tensors)
    carried = dict(checkpoint.tensors(checkpoint.carried))
    assert set(carried) == {
        "tokenizer.quantizer.project_in.weight",
        "detokenizer.layers.0.self_attn.q_proj.weight",
    }
    assert checkpoint.other_settings == toys.FURTHER
    write_acestep(
        tmp_path / "b", checkpoint.config, checkpoint.tensors, "hf", checkpoint.dtypes, carried=checkpoint.carried
    )
    again = read_acestep(tmp_path / "b")
    toys.assert_same(dict(again.tensors(again.carried)), carried)


def test_kernels_lie_as_mlx_wants_them(tmp_path: Path) -> None:
    tensors = toys.write_random(tmp_path / "m", toys.SMALL, "mlx")
    stored = read_safetensors(tmp_path / "m" / "model.safetensors")
    kernel = tensors["decoder.proj_out.1.weight"]  # [in, out, k]
    np.testing.assert_array_equal(stored["decoder.proj_out.1.weight"], kernel.transpose(1, 2, 0))
    kernel = tensors["decoder.proj_in.1.weight"]  # [out, in, k]
    np.testing.assert_array_equal(stored["decoder.proj_in.1.weight"], kernel.transpose(0, 2, 1))


def test_both_spellings_of_the_attention_are_read_from_a_pipeline(tmp_path: Path) -> None:
    tensors = toys.write_random(tmp_path / "p", toys.SMALL, "diffusers")
    for part in ("transformer", "condition_encoder"):
        file = tmp_path / "p" / part / "diffusion_pytorch_model.safetensors"
        arrays = read_safetensors(file)
        assert any(name.endswith("self_attn.to_out.0.weight") for name in arrays)
        file.unlink()
        write_safetensors(file, {restore_attention(name): array for name, array in arrays.items()})
    toys.assert_same(toys.read_all(tmp_path / "p"), tensors)


def test_attention_names_are_each_others_inverse() -> None:
    for module in toys.SMALL.linear_shapes():
        assert restore_attention(rename_attention(module)) == module
    assert rename_attention("layers.0.cross_attn.o_proj") == "layers.0.cross_attn.to_out.0"


def test_a_pipeline_of_an_early_script_has_its_silence_beside_the_parts(tmp_path: Path) -> None:
    torch = require("torch")
    tensors = toys.write_random(tmp_path / "p", toys.SMALL, "diffusers")
    file = tmp_path / "p" / "condition_encoder" / "diffusion_pytorch_model.safetensors"
    arrays = read_safetensors(file)
    del arrays["silence_latent"]
    file.unlink()
    write_safetensors(file, arrays)
    torch.save(torch.from_numpy(tensors["silence_latent"].T[None].copy()), tmp_path / "p" / "silence_latent.pt")
    toys.assert_same(toys.read_all(tmp_path / "p"), tensors)


@pytest.mark.parametrize("bits", [4, 8])
def test_only_matrices_of_the_blocks_are_quantised(bits: int, tmp_path: Path) -> None:
    tensors = toys.write_random(tmp_path / "q", toys.EVEN, "mlx", bits=bits)
    checkpoint = read_acestep(tmp_path / "q")
    assert (checkpoint.bits, checkpoint.config) == (bits, toys.EVEN)
    found = dict(checkpoint.tensors())
    changed = {name for name, array in tensors.items() if not np.array_equal(found[name], array)}
    matrices = {f"decoder.{name}.weight" for name in toys.EVEN.linear_shapes() if name.startswith("layers.")}
    assert changed == matrices
    for name in matrices:
        # Half a step of the widest group: its range over 2^bits - 1 steps.
        step = np.ptp(tensors[name].reshape(len(tensors[name]), -1, 64 if tensors[name].shape[1] % 64 == 0 else 32), -1)
        assert np.abs(found[name] - tensors[name]).max() <= step.max() / (2**bits - 1)
    assert sum(hasattr(value, "scales") for _, value in checkpoint.stored()) == len(matrices)


def test_the_parent_of_one_model_stands_for_it_and_of_several_is_refused(tmp_path: Path) -> None:
    tensors = toys.write_random(tmp_path / "acestep-v15-turbo", toys.SMALL, "hf")
    text_encoder = tmp_path / "Qwen3-Embedding-0.6B"
    text_encoder.mkdir()
    (text_encoder / "config.json").write_text('{"model_type": "qwen3"}')
    (text_encoder / "tokenizer_config.json").write_text("{}")
    codec = OobleckConfig(4, (1, 2), (2, 4), 4, 8, 2, 48000)
    write_oobleck(
        tmp_path / "vae",
        codec,
        ((n, np.ones(s, np.float32)) for n, s in codec.tensor_shapes().items()),
        "hf",
        "float32",
    )
    checkpoint = read_acestep(tmp_path)
    toys.assert_same(dict(checkpoint.tensors()), tensors)
    found = checkpoint.folder
    assert (found.vae, found.text_encoder, found.tokenizer) == (tmp_path / "vae", text_encoder, text_encoder)
    toys.write_random(tmp_path / "acestep-v15-base", toys.SMALL, "hf")
    with pytest.raises(ConvertError, match=r"several models here \(acestep-v15-base; acestep-v15-turbo"):
        read_acestep(tmp_path)


# --- what is refused, in one line ---


def _edit(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text())
    content |= changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value != "GONE"}))


def _refusal(path: Path) -> str:
    with pytest.raises(ConvertError) as caught:
        read_acestep(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": "GONE"}, ["hidden_size is missing"]),
        ({"hidden_size": "24"}, ["hidden_size", "a whole number"]),
        ({"in_channels": 13}, ["in_channels is 13, expected 12"]),
        ({"timbre_hidden_dim": 5}, ["timbre_hidden_dim is 5"]),
        ({"num_hidden_layers": 5}, ["num_hidden_layers is 5, layer_types has 3"]),
        ({"layer_types": ["full_attention"] * 3}, ["do not alternate"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "silu"]),
        ({"rope_scaling": {"type": "linear"}}, ["scaled rotary"]),
        ({"use_sliding_window": False}, ["use_sliding_window"]),
        ({"num_key_value_heads": 3}, ["4 heads are no multiple of 3"]),
        ({"head_dim": 16}, ["decoder.layers.0.cross_attn.q_proj.weight is [32, 24], expected [64, 24]", "more"]),
        ({"model_type": "diffrhythm"}, ['model_type is "diffrhythm"', 'model_type "acestep"']),
        ({"model_type": "qwen3"}, ['model_type is "qwen3", a text encoder']),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_config_that_does_not_fit_is_refused(changes: dict, words: list[str], tmp_path: Path) -> None:
    toys.write_random(tmp_path / "m", toys.SMALL, "hf")
    _edit(tmp_path / "m" / "config.json", **changes)
    text = _refusal(tmp_path / "m")
    assert all(word in text for word in words), text


def test_missing_surplus_and_misshapen_tensors_are_named_at_once(tmp_path: Path) -> None:
    toys.write_random(tmp_path / "m", toys.SMALL, "hf")
    file = tmp_path / "m" / "model.safetensors"
    arrays = read_safetensors(file)
    del arrays["null_condition_emb"]
    arrays["decoder.extra.weight"] = np.zeros(3, np.float32)
    arrays["encoder.text_projector.weight"] = arrays["encoder.text_projector.weight"].T.copy()
    file.unlink()
    write_safetensors(file, arrays)
    text = _refusal(tmp_path / "m")
    assert "decoder.extra.weight is surplus" in text
    assert "null_condition_emb is missing" in text
    assert "encoder.text_projector.weight is [12, 16], expected [16, 12]" in text


def test_a_silence_that_is_missing_or_short_is_refused(tmp_path: Path) -> None:
    tensors = toys.write_random(tmp_path / "m", toys.SMALL, "hf")
    file = tmp_path / "m" / "silence_latent.safetensors"
    file.unlink()
    assert "silence_latent is missing" in _refusal(tmp_path / "m")
    write_safetensors(file, {"silence_latent": tensors["silence_latent"].T[None, :, :100].copy()})
    assert "silence_latent is [1, 4, 100], expected [1, 4, 15000]" in _refusal(tmp_path / "m")


def test_a_checkpoint_with_half_its_shards_is_refused(tmp_path: Path) -> None:
    toys.write_random(tmp_path / "m", toys.SMALL, "hf")
    file = tmp_path / "m" / "model.safetensors"
    arrays = read_safetensors(file)
    file.unlink()
    names = sorted(arrays)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {name: shards[i % 2] for i, name in enumerate(names)}
    for shard in shards:
        write_safetensors(tmp_path / "m" / shard, {n: arrays[n] for n in names if weight_map[n] == shard})
    assert "shard 1 of 2 without the index" in _refusal(tmp_path / "m")
    index = tmp_path / "m" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert len(read_acestep(tmp_path / "m").dtypes) == len(tensor_shapes(toys.SMALL))
    (tmp_path / "m" / shards[1]).unlink()
    assert f"1 of 2 files are missing: {shards[1]}" in _refusal(tmp_path / "m")


def test_folders_of_other_things_are_refused(tmp_path: Path) -> None:
    toys.write_random(tmp_path / "p", toys.SMALL, "diffusers")
    assert "one part of a pipeline; give the folder around it" in _refusal(tmp_path / "p" / "transformer")
    (tmp_path / "p" / "condition_encoder" / "config.json").unlink()
    assert "condition_encoder/config.json is missing" in _refusal(tmp_path / "p")
    text_encoder = tmp_path / "only" / "text_encoder"
    text_encoder.mkdir(parents=True)
    (text_encoder / "config.json").write_text('{"model_type": "qwen3"}')
    assert "it holds text_encoder" in _refusal(tmp_path / "only")
    assert "a text encoder" in _refusal(text_encoder)
    assert "no such folder" in _refusal(tmp_path / "nowhere")
    toys.write_random(tmp_path / "m", toys.SMALL, "hf")
    (tmp_path / "m" / "model.safetensors").unlink()
    assert "no model.safetensors is here" in _refusal(tmp_path / "m")


def test_parts_of_a_pipeline_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    toys.write_random(tmp_path / "p", toys.SMALL, "diffusers")
    _edit(tmp_path / "p" / "condition_encoder" / "config.json", rms_norm_eps=1e-3, hidden_size=32)
    text = _refusal(tmp_path / "p")
    assert "conditions of 16 values" in text
    assert "rms_norm_eps" in text


def test_heads_of_two_widths_fit_a_pipeline_but_not_the_originals_config(tmp_path: Path) -> None:
    config = replace(toys.SMALL, encoder=replace(toys.SMALL.encoder, head_dim=4))
    tensors = toys.write_random(tmp_path / "p", config, "diffusers")
    toys.assert_same(toys.read_all(tmp_path / "p"), tensors)
    with pytest.raises(ConvertError, match="one head_dim"):
        toys.write_random(tmp_path / "m", config, "hf")
    assert not (tmp_path / "m").exists()


def test_rope_theta_is_read_where_newer_transformers_write_it(tmp_path: Path) -> None:
    toys.write_random(tmp_path / "m", toys.SMALL, "hf")
    file = tmp_path / "m" / "config.json"
    _edit(file, rope_theta="GONE", rope_parameters={"rope_theta": 5000.0, "rope_type": "default"})
    assert read_acestep(tmp_path / "m").config.rope_theta == 5000.0


def test_the_header_says_which_library_it_is_for(tmp_path: Path) -> None:
    for layout, expected in (("hf", "pt"), ("mlx", "mlx")):
        toys.write_random(tmp_path / layout, toys.SMALL, layout)
        assert safetensors_header(tmp_path / layout / "model.safetensors")[1] == {"format": expected}


def test_fingerprints_follow_the_parts_of_a_pipeline_and_not_where_it_lies(tmp_path: Path) -> None:
    for name in ("one", "two"):
        toys.write_random(tmp_path / name / "m", toys.SMALL, "hf")
    toys.write_random(tmp_path / "p", replace(toys.SMALL, data_proportion=None, timestep_mu=0.0), "diffusers")
    tensors = toys.random_tensors(toys.SMALL, seed=1)
    write_acestep(tmp_path / "three" / "m", toys.SMALL, toys.reader(tensors), "hf", "float32")
    found = {n: fingerprint_folder(tmp_path / n, read_acestep) for n in ("one", "two", "three", "p")}
    # Neither the container nor the distribution of training times, which diffusers does not keep, makes another base.
    assert found["one"] == found["two"] == found["p"]
    assert found["three"]["weights"] != found["one"]["weights"]
    shutil.rmtree(tmp_path / "p" / "transformer")
    write_acestep(tmp_path / "new", toys.SMALL, toys.reader(tensors), "diffusers", "float32")
    shutil.copytree(tmp_path / "new" / "transformer", tmp_path / "p" / "transformer")
    assert fingerprint_folder(tmp_path / "p", read_acestep)["weights"] != found["p"]["weights"]
