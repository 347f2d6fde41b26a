"""Checkpoints with weights of several models, and the record of a copy."""

import json
from pathlib import Path

import numpy as np
import pytest
from require import require

from musiclora.conversion.model import convert_model
from musiclora.conversion.verify import largest_change
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.fingerprint import fingerprint_tensors
from musiclora.convert.files.safetensors_file import dtype_named, read_safetensors, write_safetensors
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, read_diffrhythm, write_diffrhythm
from musiclora.convert.models.oobleck import OobleckConfig, read_oobleck
from musiclora.families import checkpoint_fingerprint

SMALL = DiffRhythmConfig(32, 2, 2, text_dim=24, conv_layers=1, mel_dim=8, text_num_embeds=5)
CODEC = OobleckConfig(3, (1, 2), (3, 2), 5, 10, 1)


def random_tensors(config: DiffRhythmConfig | OobleckConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in config.tensor_shapes().items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(np.array_equal(first[n], second[n]) for n in first)


def test_averaged_weights_in_safetensors_read_without_their_mark_and_what_is_neither_is_surplus(tmp_path: Path) -> None:
    tensors = random_tensors(SMALL)
    marked = {f"ema_model.transformer.{name}": array for name, array in tensors.items()}
    counters = {"initted": np.array(True), "step": np.array(7)}
    write_safetensors(tmp_path / "a.safetensors", marked | counters)
    assert same(dict(read_diffrhythm(tmp_path / "a.safetensors").tensors()), tensors)
    write_safetensors(tmp_path / "b.safetensors", marked | {"other": np.ones(2)})
    with pytest.raises(ConvertError, match="other is surplus"):
        read_diffrhythm(tmp_path / "b.safetensors")
    plain = {f"transformer.{name}": array for name, array in tensors.items()}
    write_safetensors(tmp_path / "c.safetensors", plain | {"ema_model.transformer.proj_out.bias": np.ones(8)})
    both = read_diffrhythm(tmp_path / "c.safetensors")
    assert same(dict(both.tensors()), tensors)
    assert both.notes == (
        "c.safetensors: left out 1 averaged weights (ema_model.*), which are there beside the plain ones",
    )


def test_a_rounded_copys_record_holds_for_the_weights_it_was_written_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    tensors = random_tensors(SMALL)
    write_diffrhythm(tmp_path / "hf", SMALL, tensors.items(), "hf", "float32")
    for dtype in (None, "float16"):
        out = tmp_path / str(dtype)
        convert_model(tmp_path / "hf", out, "mlx", dtype)
        source = fingerprint_tensors(tensors.items())
        assert checkpoint_fingerprint(out)["source_weights"] == source
        stored = read_safetensors(out / "model.safetensors")
        name = "transformer_blocks.0.self_attn.q_proj.weight"  # square
        stored[name] = np.ascontiguousarray(stored[name].T)
        (out / "model.safetensors").unlink()
        write_safetensors(out / "model.safetensors", stored, {"format": "mlx"})
        assert "source_weights" not in checkpoint_fingerprint(out)


def test_an_adapter_is_not_taken_for_a_model(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"proj_out.lora_A.weight": np.ones((2, 2))})
    with pytest.raises(ConvertError, match="an adapter; turn it into another format with `musiclora convert adapter`"):
        convert_model(tmp_path / "a.safetensors", tmp_path / "out", "mlx")


def test_a_whole_stable_audio_checkpoint_gives_its_codec_and_says_what_was_left_out(tmp_path: Path) -> None:
    torch = require("torch")
    tensors = random_tensors(CODEC)
    stored = {f"pretransform.model.{name}": array for name, array in tensors.items()}
    # Damaged values outside the codec are none of its business, and are not read.
    around = {f"model.model.transformer.layers.{i}.to_qkv.weight": np.full((2, 2), np.nan, np.float32) for i in (0, 1)}
    write_safetensors(tmp_path / "f.safetensors", stored | around)
    state = {name: torch.from_numpy(array) for name, array in (stored | around).items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.1"}, tmp_path / "f.ckpt")
    for file in ("f.safetensors", "f.ckpt"):
        done = convert_model(tmp_path / file, tmp_path / f"{file}-out", "mlx")
        left = (
            "left out model.model.transformer.layers.0.to_qkv.weight and 1 more: a part of the model around the codec"
        )
        assert left in done.notes
        assert same(dict(read_oobleck(tmp_path / f"{file}-out").tensors()), tensors)


def test_a_record_without_a_fingerprint_of_its_own_is_believed(tmp_path: Path) -> None:
    """Accept folders of earlier versions."""
    write_diffrhythm(tmp_path / "m", SMALL, random_tensors(SMALL).items(), "hf", "float16")
    source = {"source_fingerprint": {"weights": "a" * 64}}
    (tmp_path / "m" / "musiclora.json").write_text(json.dumps(source))
    assert checkpoint_fingerprint(tmp_path / "m")["source_weights"] == "a" * 64


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_largest_change_is_found_wherever_it_lies(dtype: str) -> None:
    array = np.random.default_rng(0).standard_normal((700, 999)).astype(np.float32)
    array[-1, -1] = 1000.03
    rounded = array.astype(dtype_named(dtype))
    expected = float(np.abs(array - rounded.astype(np.float32)).max())
    assert largest_change(array, rounded) == largest_change(array.T, rounded.T) == expected > 0.02
    assert largest_change(np.empty((0, 3)), np.empty((0, 3))) == 0
