"""DiffRhythm's transformer: names and shapes of the original, every container and source."""

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from require import require

from musiclora.conversion import diffrhythm as audio_conversion
from musiclora.conversion.model import convert_model
from musiclora.convert.errors import ConfigError, ConvertError
from musiclora.convert.files.fingerprint import compare_fingerprints, fingerprint_tensors
from musiclora.convert.files.safetensors_file import (
    cast_tensor,
    checksum,
    dtype_named,
    read_safetensors,
    write_safetensors,
)
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, read_diffrhythm, write_diffrhythm
from musiclora.families import checkpoint_fingerprint

GOLDEN = Path(__file__).parents[2] / "golden" / "diffrhythm"
SMALL = DiffRhythmConfig(32, 2, 2, text_dim=24, conv_layers=1, mel_dim=8, text_num_embeds=5)
# dim 512 makes the position kernels [512, 32, 31]; a depth of 3 leaves a block without text fusion.
CONFIGS = {
    "small": SMALL,
    "with duration": DiffRhythmConfig(64, 3, 1, 16, 2, 4, 3, max_frames=6144, duration_embedding=True),
    "square mlp and text": DiffRhythmConfig(32, 1, 1, 32, 1, 32, 7),
    "no text blocks": DiffRhythmConfig(32, 2, 2, 24, 0, 8, 5),
}
by_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))


def random_tensors(config: DiffRhythmConfig, dtype: str = "float16") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in config.tensor_shapes().items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(
        first[n].dtype == second[n].dtype and np.array_equal(first[n], second[n]) for n in first
    )


@pytest.mark.parametrize("frames", [2048, 6144])
def test_names_and_shapes_are_those_of_the_original(frames: int) -> None:
    lines = (GOLDEN / f"keys_{frames}.txt").read_text().splitlines()
    pairs = [line.split("\t") for line in lines]
    expected = {name.removeprefix("transformer."): ast.literal_eval(shape) for name, shape in pairs}
    config = DiffRhythmConfig(2048, 16, 4, max_frames=frames, duration_embedding=frames == 6144)
    assert config.tensor_shapes() == expected


def test_the_default_lora_targets_hit_the_modules_of_the_published_recipe() -> None:
    shapes = DiffRhythmConfig(2048, 16, 4).linear_shapes()
    ends = ("q_proj", "k_proj", "v_proj", "o_proj", "time_mlp.0", "time_mlp.2", "norm_out.linear", "proj_out")
    hit = [shape for name, shape in shapes.items() if name.endswith(ends)]
    assert (len(hit), sum(8 * (out + inputs) for out, inputs in hit)) == (70, 2_179_584)


@by_config
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_container_gives_back_every_bit(config: DiffRhythmConfig, dtype: str, tmp_path: Path) -> None:
    tensors = random_tensors(config, dtype)
    write_diffrhythm(tmp_path / "hf", config, tensors.items(), "hf", dtype)
    for source, to in (("hf", "mlx"), ("mlx", "back")):
        checkpoint = read_diffrhythm(tmp_path / source)
        assert (checkpoint.layout, checkpoint.config) == (source, config)
        assert same(dict(checkpoint.tensors()), tensors)
        layout = "hf" if to == "back" else to
        write_diffrhythm(tmp_path / to, config, checkpoint.tensors(), layout, checkpoint.dtypes)
    assert (tmp_path / "back/model.safetensors").read_bytes() == (tmp_path / "hf/model.safetensors").read_bytes()


def test_an_mlx_folder_has_its_kernels_in_mlxs_layout(tmp_path: Path) -> None:
    tensors = random_tensors(SMALL)
    write_diffrhythm(tmp_path / "m", SMALL, tensors.items(), "mlx", "float16")
    stored = read_safetensors(tmp_path / "m" / "model.safetensors")
    kernel = "input_embed.conv_pos_embed.conv1d.2.weight"
    assert np.array_equal(stored[kernel], tensors[kernel].transpose(0, 2, 1))
    assert np.array_equal(stored["proj_out.weight"], tensors["proj_out.weight"])
    assert np.array_equal(stored["text_embed.text_blocks.0.grn.gamma"], tensors["text_embed.text_blocks.0.grn.gamma"])


@by_config
@pytest.mark.parametrize("prefix", ["transformer.", ""], ids=["original names", "bare"])
def test_a_bare_file_is_read_by_its_shapes(config: DiffRhythmConfig, prefix: str, tmp_path: Path) -> None:
    tensors = random_tensors(config)
    write_safetensors(tmp_path / "x.safetensors", {prefix + name: array for name, array in tensors.items()})
    checkpoint = read_diffrhythm(tmp_path / "x.safetensors")
    assert checkpoint.config == config
    assert same(dict(checkpoint.tensors()), tensors)


FORMS = ["model_state_dict", "ema_model_state_dict", "both", "bare", "bare ema", "bare, both"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_originals_checkpoint_reads_the_same(form: str, tmp_path: Path) -> None:
    torch = require("torch")
    tensors = random_tensors(SMALL)
    state = {f"transformer.{name}": torch.from_numpy(array) for name, array in tensors.items()}
    other = {name: tensor + 1 for name, tensor in state.items()}
    counters = {"initted": torch.tensor(True), "step": torch.tensor(7)}
    ema = {f"ema_model.{name}": tensor for name, tensor in (other if "both" in form else state).items()} | counters
    saved = {
        "model_state_dict": {"model_state_dict": state, "optimizer_state_dict": {"state": {0: other}}, "step": 7},
        "ema_model_state_dict": {"ema_model_state_dict": ema, "step": 7},
        "both": {"ema_model_state_dict": ema, "model_state_dict": state},
        "bare": state,
        "bare ema": ema,
        "bare, both": ema | state,
    }[form]
    torch.save(saved, tmp_path / "cfm_model.pt")
    checkpoint = read_diffrhythm(tmp_path / "cfm_model.pt")
    assert same(dict(checkpoint.tensors()), tensors)
    left = {
        "model_state_dict": "took model_state_dict, left out optimizer_state_dict",
        "both": "took model_state_dict, left out ema_model_state_dict",
        "bare, both": f"left out {len(state)} averaged weights",
    }
    assert (left.get(form, "") in checkpoint.notes[0]) if form in left else not checkpoint.notes


def test_a_model_in_two_files_is_merged_and_doubled_tensors_are_refused(tmp_path: Path) -> None:
    config = CONFIGS["with duration"]
    tensors = {f"transformer.{name}": array for name, array in random_tensors(config).items()}
    extra = {name: array for name, array in tensors.items() if "duration" in name}
    write_safetensors(tmp_path / "a.safetensors", {n: a for n, a in tensors.items() if n not in extra})
    write_safetensors(tmp_path / "b.safetensors", extra)
    assert read_diffrhythm(tmp_path).config == config
    write_safetensors(tmp_path / "c.safetensors", extra)
    with pytest.raises(ConvertError, match=r"is in c\.safetensors and in another file"):
        read_diffrhythm(tmp_path)


@pytest.mark.parametrize("to", ["mlx", "hf"])
def test_convert_keeps_every_value_and_records_its_source(to: str, tmp_path: Path) -> None:
    tensors = random_tensors(SMALL)
    write_safetensors(tmp_path / "x.safetensors", {f"transformer.{name}": array for name, array in tensors.items()})
    result = convert_model(tmp_path / "x.safetensors", tmp_path / "out", to, causal=True)
    assert any("the same value" in note for note in result.notes)
    checkpoint = read_diffrhythm(tmp_path / "out")
    assert checkpoint.config.causal
    assert same(dict(checkpoint.tensors()), tensors)
    record = json.loads((tmp_path / "out" / "musiclora.json").read_text())
    assert record["source_fingerprint"]["weights"] == fingerprint_tensors(tensors.items())
    assert checkpoint_fingerprint(tmp_path / "out")["weights"] == fingerprint_tensors(tensors.items())


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("to", ["mlx", "hf"])
def test_a_torch_file_converts_with_every_value(to: str, dtype: str | None, tmp_path: Path) -> None:
    torch = require("torch")
    tensors = random_tensors(SMALL)
    torch.save({f"transformer.{n}": torch.from_numpy(a.copy()) for n, a in tensors.items()}, tmp_path / "cfm_model.pt")
    stated = read_diffrhythm(tmp_path / "cfm_model.pt").checksums()
    assert stated == {name: checksum(array) for name, array in tensors.items()}
    convert_model(tmp_path / "cfm_model.pt", tmp_path / "out", to, dtype)
    wanted = {name: cast_tensor(name, array, dtype_named(dtype or "float16")) for name, array in tensors.items()}
    assert same(dict(read_diffrhythm(tmp_path / "out").tensors()), wanted)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_copy_that_reads_back_otherwise_is_withdrawn(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, changed = tmp_path / f"x.{suffix}", "proj_out.bias"
    tensors = {f"transformer.{name}": array for name, array in random_tensors(SMALL).items()}
    if suffix == "pt":
        torch = require("torch")
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, source)
    else:
        write_safetensors(source, tensors)

    def faulty(folder: Path, config: DiffRhythmConfig, pairs: Any, *arguments: Any) -> None:
        altered = ((name, array * np.float16(np.nan) if name == changed else array) for name, array in pairs)
        write_diffrhythm(folder, config, altered, *arguments)

    monkeypatch.setattr(audio_conversion, "write_diffrhythm", faulty)
    with pytest.raises(ConvertError, match=r"reads back with other values \(proj_out\.bias\); it was withdrawn"):
        convert_model(source, tmp_path / "out", "mlx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("first", [None, {"weights": "0" * 64}], ids=["original", "made from another"])
def test_a_large_copy_leaves_out_the_fingerprint_that_is_its_own_but_keeps_that_of_an_earlier_source(
    first: dict[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_conversion, "_LARGE_BYTES", 0)
    tensors = random_tensors(SMALL)
    write_diffrhythm(tmp_path / "hf", SMALL, tensors.items(), "hf", "float16")
    if first:
        (tmp_path / "hf" / "musiclora.json").write_text(json.dumps({"source_fingerprint": first}))
    recorded = checkpoint_fingerprint(tmp_path / "hf")  # as in an adapter trained on the source
    result = convert_model(tmp_path / "hf", tmp_path / "out", "mlx")
    assert "every weight has the same value" in result.notes
    record = json.loads((tmp_path / "out" / "musiclora.json").read_text())
    assert record.get("source_fingerprint") == first
    assert not compare_fingerprints(recorded, checkpoint_fingerprint(tmp_path / "out"))


def test_a_large_copy_that_is_rounded_records_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_conversion, "_LARGE_BYTES", 0)
    tensors = random_tensors(SMALL, "float32")
    write_diffrhythm(tmp_path / "hf", SMALL, tensors.items(), "hf", "float32")
    convert_model(tmp_path / "hf", tmp_path / "out", "mlx", "float16")
    record = json.loads((tmp_path / "out" / "musiclora.json").read_text())
    assert record["source_fingerprint"]["weights"] == fingerprint_tensors(tensors.items())


def test_convert_to_another_dtype_rounds_once_and_says_how_much(tmp_path: Path) -> None:
    tensors = random_tensors(SMALL, "float32")
    write_safetensors(tmp_path / "x.safetensors", {f"transformer.{name}": array for name, array in tensors.items()})
    result = convert_model(tmp_path / "x.safetensors", tmp_path / "out", "mlx", "float16")
    rounding = max(float(np.abs(a - a.astype(np.float16).astype(np.float32)).max()) for a in tensors.values())
    assert f"the largest change of a weight is {rounding:.3g}" in " ".join(result.notes)
    assert same(
        dict(read_diffrhythm(tmp_path / "out").tensors()), {n: a.astype(np.float16) for n, a in tensors.items()}
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"transformer.proj_out.bias": None}, "proj_out.bias is missing"),
        ({"transformer.long_skip_connection.weight": np.zeros((32, 64))}, "long_skip_connection.weight is surplus"),
        ({"transformer.norm_out.linear.weight": np.zeros((512, 64))}, r"norm_out.linear.weight is \[512, 64\]"),
        (
            {"transformer.transformer_blocks.7.input_layernorm.weight": np.zeros(32)},
            "blocks.7.input_layernorm.weight is sur",
        ),
        ({"transformer.proj_out.weight": None}, "cannot tell the model's size"),
        ({"transformer.proj_out.bias": np.full(8, np.nan)}, "proj_out.bias has 8 non-finite"),
    ],
    ids=["missing", "surplus", "transposed", "a lonely block", "no size", "not a number"],
)
def test_a_file_that_does_not_fit_names_its_tensors_and_leaves_nothing(
    change: dict[str, np.ndarray | None], named: str, tmp_path: Path
) -> None:
    tensors = {f"transformer.{name}": array for name, array in random_tensors(SMALL).items()} | change
    write_safetensors(tmp_path / "x.safetensors", {n: a for n, a in tensors.items() if a is not None})
    with pytest.raises(ConvertError, match=named):
        convert_model(tmp_path / "x.safetensors", tmp_path / "out", "mlx")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_another_model_and_an_impossible_target_are_refused_by_name(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", {"lm.weight": np.ones(3)})
    with pytest.raises(ConvertError, match=r"no model of a known architecture.*lm\.weight"):
        convert_model(tmp_path / "x.safetensors", tmp_path / "out", "mlx")
    write_diffrhythm(tmp_path / "m", SMALL, random_tensors(SMALL).items(), "hf", "float16")
    with pytest.raises(ConfigError, match="diffusers has no DiffRhythm"):
        convert_model(tmp_path / "m", tmp_path / "out", "diffusers")


@pytest.mark.parametrize(
    "change",
    [{"dim": 33}, {"depth": 0}, {"depth": 10**6}, {"ff_mult": "4"}, {"dim": True}, {"conv_layers": -1}, {"dim": 2**40}],
    ids=str,
)
def test_a_configuration_that_makes_no_model_is_refused(change: dict[str, object]) -> None:
    config = SMALL.to_json()
    with pytest.raises(ConvertError, match=next(iter(change)) if "depth" not in change else "depth|blocks"):
        DiffRhythmConfig.from_json({**config, "model": config["model"] | change})


def test_a_chain_of_conversions_keeps_the_first_sources_fingerprint(tmp_path: Path) -> None:
    config = DiffRhythmConfig(32, 2, 1, text_dim=24, conv_layers=1, mel_dim=8, text_num_embeds=5)
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in config.tensor_shapes().items()}
    write_diffrhythm(tmp_path / "0", config, tensors.items(), "hf", "float32")
    for k, (to, dtype) in enumerate([("mlx", "float16"), ("hf", "bfloat16"), ("mlx", "float32")], 1):
        convert_model(str(tmp_path / str(k - 1)), tmp_path / str(k), to, dtype)
        record = json.loads((tmp_path / str(k) / "musiclora.json").read_text())
        assert record["source_fingerprint"]["weights"] == fingerprint_tensors(tensors.items())
