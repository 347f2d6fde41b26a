"""Conversion of ACE-Step between the original's folder, diffusers' pipeline and the MLX layout."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import acestep_toys as toys
import numpy as np
import pytest
import tolerance
from require import require

from musiclora.conversion.acestep import convert_acestep, is_acestep_source
from musiclora.conversion.protocols import ModelConversion
from musiclora.conversion.verify import Converted
from musiclora.convert.errors import ConfigError, ConvertError
from musiclora.convert.files.fingerprint import fingerprint_tensors
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.acestep import read_acestep
from musiclora.convert.models.acestep_write import is_packed
from musiclora.convert.models.oobleck import read_oobleck
from musiclora.convert.models.quantise import round_matrix
from musiclora.progress import Reporter

TURBO = "acestep-v15-turbo"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))


def convert(source: Path, destination: Path, to: str, **options: Any) -> Converted:
    return convert_acestep(ModelConversion(source, destination, to, **options), Reporter())


def save(pipeline: Any, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.save_pretrained(folder)


def load_pipeline(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return require("diffusers").AceStepPipeline.from_pretrained(folder)


def test_round_trips_from_the_original_give_back_every_bit_and_every_setting(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    tensors = toys.write_upstream_folders(root, toys.SMALL, "bfloat16")
    assert is_acestep_source(root)
    original = read_acestep(root)
    for chain in (("diffusers", "hf"), ("mlx", "hf"), ("mlx", "diffusers", "hf")):
        source = root / TURBO
        for step, to in enumerate(chain):
            source, previous = tmp_path / f"{'-'.join(chain)}-{step}", source
            notes = "\n".join(convert(previous, source, to).notes)
            assert "every weight has the same value" in notes
        back = read_acestep(source)
        toys.assert_same(dict(back.tensors()), tensors)
        assert (back.config, back.other_settings) == (original.config, original.other_settings)


def test_a_copy_in_the_originals_layout_keeps_tokenizer_silence_and_code(tmp_path: Path) -> None:
    toys.write_upstream_folders(tmp_path / "checkpoints", toys.SMALL)
    source = tmp_path / "checkpoints" / TURBO
    result = convert(source, tmp_path / "copy", "hf", dtype="float16")
    copy, original = read_acestep(tmp_path / "copy"), read_acestep(source)
    assert {kind.name for kind in copy.dtypes.values()} == {"float16"}
    carried = dict(original.tensors(original.carried))
    found = dict(copy.tensors(copy.carried))
    assert {name: array.dtype.name for name, array in found.items()} == dict.fromkeys(carried, "float16")
    toys.assert_same({n: a.astype(np.float32) for n, a in found.items()}, carried)  # halves and ones: exact
    for name in ("silence_latent.pt", "modeling_acestep_v15_turbo.py"):
        assert (tmp_path / "copy" / name).read_bytes() == (source / name).read_bytes()
    assert (tmp_path / "copy" / "text_encoder" / "model.safetensors").is_file()
    assert any("rounded to float16" in note for note in result.notes)
    notes = convert(source, tmp_path / "mlx", "mlx").notes
    assert any("left out tokenizer.quantizer" in n or "left out detokenizer" in n for n in notes)


def test_the_mlx_folder_holds_every_part_and_the_fingerprint(tmp_path: Path) -> None:
    tensors = toys.write_upstream_folders(tmp_path / "checkpoints", toys.SMALL)
    convert(tmp_path / "checkpoints", tmp_path / "m", "mlx")
    codec = read_oobleck(tmp_path / "m" / "vae")
    assert (codec.layout, codec.config.sample_rate, codec.config.hop) == ("mlx", 48000, 1920)
    assert (tmp_path / "m" / "text_encoder" / "model.safetensors").is_file()
    assert (tmp_path / "m" / "tokenizer" / "tokenizer.json").is_file()
    record = json.loads((tmp_path / "m" / "musiclora.json").read_text())
    assert record["fingerprint"]["weights"] == fingerprint_tensors(tensors.items())
    assert record["family"] == "audio"
    folder = read_acestep(tmp_path / "m").folder
    assert folder.vae == tmp_path / "m" / "vae"
    # A folder of this package is complete: what lies around it is somebody else's.
    assert read_acestep(tmp_path / "m").folder.text_encoder == tmp_path / "m" / "text_encoder"


def test_diffusers_generates_the_same_sound_from_a_copy_of_a_copy(tmp_path: Path) -> None:
    torch = require("torch")
    pipeline = toys.diffusers_pipeline(toys.SMALL)
    save(pipeline, tmp_path / "p")
    convert(tmp_path / "p", tmp_path / "m", "mlx")
    convert(tmp_path / "m", tmp_path / "back", "diffusers")
    sounds = []
    for model in (pipeline, load_pipeline(tmp_path / "back")):
        model.set_progress_bar_config(disable=True)
        seed = torch.Generator().manual_seed(0)
        options = {"audio_duration": 0.4, "num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "np"}
        sounds.append(np.asarray(model("slow piano", "[verse] la", generator=seed, **options).audios))
    # The codec's weight norm is folded and split again: one rounding more in each of its 40 layers.
    size = max(1.0, float(np.abs(sounds[0]).max()))
    tolerance.assert_near(sounds[1], sounds[0], tolerance.rounding(40 * 7 * 16, size))
    assert np.abs(sounds[0]).max() > 0.01


def test_a_pipeline_without_codec_and_text_encoder_says_so(tmp_path: Path) -> None:
    toys.write_random(tmp_path / "p", toys.SMALL, "diffusers")
    notes = "\n".join(convert(tmp_path / "p", tmp_path / "m", "hf").notes)
    assert "no codec" in notes
    assert "no text encoder" in notes
    assert "silence_latent.pt, which is not written here" in notes
    assert "without the 5 Hz tokenizer" in notes


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_copy_holds_the_rounded_matrices_and_knows_its_source(bits: int, tmp_path: Path) -> None:
    tensors = toys.write_random(tmp_path / "a", toys.EVEN, "hf")
    result = convert(tmp_path / "a", tmp_path / "q", "mlx", bits=bits)
    found = toys.read_all(tmp_path / "q")
    for name, array in tensors.items():
        packed = is_packed(name, array.shape)
        expected = round_matrix(array, bits, np.dtype(np.float32)) if packed else array
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
    assert any(f"quantised to {bits} bits" in note for note in result.notes)
    record = json.loads((tmp_path / "q" / "musiclora.json").read_text())
    assert record["source_fingerprint"]["weights"] == fingerprint_tensors(tensors.items())
    with pytest.raises(ConfigError, match="is quantised already"):
        convert(tmp_path / "q", tmp_path / "again", "mlx", bits=bits)
    notes = convert(tmp_path / "q", tmp_path / "wide", "hf").notes
    assert any("de-quantised" in note for note in notes)
    toys.assert_same(toys.read_all(tmp_path / "wide"), found)


def test_mlx_reads_the_packed_words_as_we_do(tmp_path: Path) -> None:
    mx = require("mlx.core")
    toys.write_random(tmp_path / "q", toys.EVEN, "mlx", bits=8)
    arrays = mx.load(str(tmp_path / "q" / "model.safetensors"))
    settings = json.loads((tmp_path / "q" / "config.json").read_text())["quantization"]
    stem = "decoder.layers.0.cross_attn.k_proj"
    own = settings.get(stem, settings)
    parts = [arrays[f"{stem}.{part}"] for part in ("weight", "scales", "biases")]
    dense = mx.dequantize(*parts, group_size=own["group_size"], bits=own["bits"])
    expected = toys.read_all(tmp_path / "q")[f"{stem}.weight"]
    # One product and one sum, which may be fused.
    tolerance.assert_near(np.array(dense), expected, tolerance.rounding(2, np.abs(expected).max() * 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"causal": True, "to": "mlx"}, "--causal is for DiffRhythm"),
        ({"bits": 4, "to": "hf"}, "--quantize goes with --to mlx"),
    ],
    ids=["causal", "quantised original"],
)
def test_options_of_others_are_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    toys.write_random(tmp_path / "a", toys.SMALL, "hf")
    with pytest.raises(ConfigError, match=words):
        convert(tmp_path / "a", tmp_path / "b", **options)
    assert not (tmp_path / "b").exists()


def test_a_damaged_source_or_a_foreign_codec_leaves_nothing_behind(tmp_path: Path) -> None:
    tensors = toys.write_random(tmp_path / "a", toys.SMALL, "hf")
    toys.diffusers_codec(8).save_pretrained(tmp_path / "codec")
    with pytest.raises(ConvertError, match="a codec of 8 latent channels; this model is trained on 4"):
        convert(tmp_path / "a", tmp_path / "b", "mlx", vae=tmp_path / "codec")
    file = tmp_path / "a" / "model.safetensors"
    arrays = read_safetensors(file)
    arrays["null_condition_emb"] = np.full_like(tensors["null_condition_emb"], np.nan)
    file.unlink()
    write_safetensors(file, arrays)
    with pytest.raises(ConvertError, match="null_condition_emb has 16 non-finite values"):
        convert(tmp_path / "a", tmp_path / "b", "diffusers")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "codec"]


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_text_encoder_that_links_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    toys.write_random(root / TURBO, toys.SMALL, "hf")
    (root / "Qwen3-Embedding-0.6B").mkdir()
    (root / "Qwen3-Embedding-0.6B" / "config.json").write_text("{}")
    (tmp_path / "private.txt").write_text("secret")
    (root / "Qwen3-Embedding-0.6B" / "notes.txt").symlink_to(tmp_path / "private.txt")
    with pytest.raises(ConvertError, match="a link to a file outside its folder"):
        convert(root, tmp_path / "b", "diffusers")
    assert not (tmp_path / "b").exists()
