"""Quantised bases against mlx and mlx-lm."""

import json
from pathlib import Path

import numpy as np
import pytest
from require import require

from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.gpt2 import Gpt2Config, read_checkpoint, write_checkpoint
from musiclora.convert.models.quantise import dequantise_matrix, group_size, quantise_matrix, round_matrix

# 96 takes groups of 32 and 384 of 64: both appear in one model. The second has 64 only, the third is square.
CONFIGS = {
    "two group sizes": Gpt2Config(29, 16, 96, 2, 3, 384),
    "one group size": Gpt2Config(31, 12, 64, 1, 2, 256),
    "square": Gpt2Config(32, 32, 32, 2, 1, 128),
}
by_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
by_bits = pytest.mark.parametrize("bits", [4, 8])


def random_tensors(config: Gpt2Config) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.standard_normal(s).astype(np.float32) * 0.1 for name, s in config.tensor_shapes().items()}


def matrices() -> dict[str, np.ndarray]:
    """Draw rows of every kind that the rounding treats differently."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((6, 256)).astype(np.float32)
    return {
        "normal": normal,
        "tiny": normal * 1e-9,
        "huge": normal * 1e30,
        "positive": np.abs(normal) + 3,
        "negative": -np.abs(normal) - 3,
        "zero": np.zeros((3, 128), np.float32),
        "constant": np.full((2, 128), -0.7, np.float32),
        "one spike": np.eye(4, 128, dtype=np.float32),
        "half precision": normal.astype(np.float16),
    }


@pytest.mark.parametrize("kind", matrices())
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_quantise_is_bit_for_bit_what_mlx_makes(kind: str, bits: int, group: int) -> None:
    mx = require("mlx.core")
    weight = matrices()[kind]
    ours = quantise_matrix(weight, bits, group)
    theirs = [np.array(part) for part in mx.quantize(mx.array(weight.astype(np.float32)), group, bits)]
    for mine, other in zip(ours, theirs, strict=False):
        assert np.array_equal(mine, other)
    back = mx.dequantize(*(mx.array(part) for part in theirs), group_size=group, bits=bits)
    assert np.array_equal(dequantise_matrix(ours), np.array(back))


@by_bits
def test_the_error_is_at_most_a_step_and_the_farthest_value_is_kept_exactly(bits: int) -> None:
    weight = matrices()["normal"]
    back = dequantise_matrix(quantise_matrix(weight, bits, 64))
    grouped, changed = weight.reshape(6, 4, 64), back.reshape(6, 4, 64)
    # The step is stretched so that zero is met; the group then reaches up to half a step less far at the other end.
    step = (grouped.max(-1) - grouped.min(-1)) / (2**bits - 1)
    assert (np.abs(changed - grouped).max(-1) <= step).all()
    farthest = np.abs(grouped).argmax(-1)[..., None]
    assert np.array_equal(np.take_along_axis(changed, farthest, -1), np.take_along_axis(grouped, farthest, -1))
    assert np.array_equal(round_matrix(weight, bits, np.dtype(np.float32)), back)


@pytest.mark.parametrize(("shape", "group"), [((3, 128), 64), ((3, 96), 32), ((3, 48), None), ((64,), None)], ids=str)
def test_the_group_is_sixty_four_where_it_divides_the_width_else_thirty_two(
    shape: tuple[int, ...], group: int | None
) -> None:
    assert group_size(shape) == group


@by_config
@by_bits
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_mlx_lm_loads_a_quantised_folder_strictly_and_holds_the_values_that_we_read(
    config: Gpt2Config, bits: int, dtype: str, tmp_path: Path
) -> None:
    mx, utils = require("mlx.core"), require("mlx_lm.utils")
    write_checkpoint(tmp_path / "q", config, random_tensors(config), "mlx", dtype=dtype, bits=bits)
    model = utils.load_model(tmp_path / "q", strict=True)[0]
    checkpoint = read_checkpoint(tmp_path / "q")
    assert (checkpoint.bits, checkpoint.dtype) == (bits, "float32")
    found = checkpoint.load()
    for i, name in ((0, "attn.c_attn"), (config.n_layer - 1, "mlp.c_proj")):
        layer = model.layers[i]
        for part in name.split("."):
            layer = layer[part]
        parts = (layer.weight, layer.scales.astype(mx.float32), layer.biases.astype(mx.float32))
        weight = np.array(mx.dequantize(*parts, layer.group_size, layer.bits))
        assert np.array_equal(found[f"transformer.h.{i}.{name}.weight"], weight.T)
    table = model.model.wte
    parts = (table.weight, table.scales.astype(mx.float32), table.biases.astype(mx.float32))
    assert np.array_equal(found["transformer.wte.weight"], mx.dequantize(*parts, table.group_size, table.bits))


@by_config
@by_bits
def test_a_folder_that_mlx_lm_quantised_and_saved_reads_as_ours_does(
    config: Gpt2Config, bits: int, tmp_path: Path
) -> None:
    mx, utils = require("mlx.core"), require("mlx_lm.utils")
    group = group_size((1, config.n_embd))
    tensors = random_tensors(config)
    write_checkpoint(tmp_path / "float", config, tensors, "mlx")
    model, settings = utils.load_model(tmp_path / "float", strict=True)
    model, settings = utils.quantize_model(model, settings, group, bits)
    utils.save_model(tmp_path / "theirs", model)
    utils.save_config(settings, tmp_path / "theirs" / "config.json")
    found = read_checkpoint(tmp_path / "theirs").load()
    for name, array in tensors.items():
        expected = array
        if array.ndim == 2:
            rows = array.T if ".c_" in name else array
            parts = mx.quantize(mx.array(np.ascontiguousarray(rows)), group, bits)
            expected = np.array(mx.dequantize(*parts, group, bits))
            expected = expected.T if ".c_" in name else expected
        assert np.array_equal(found[name], expected), name


@by_config
def test_what_is_stored_is_packed_and_what_is_read_is_its_float_value(config: Gpt2Config, tmp_path: Path) -> None:
    tensors = random_tensors(config)
    write_checkpoint(tmp_path / "q", config, tensors, "mlx", bits=4)
    checkpoint = read_checkpoint(tmp_path / "q")
    floats, stored = checkpoint.load(), dict(checkpoint.stored())
    assert set(stored) == set(floats) == set(tensors)
    for name, array in tensors.items():
        value = stored[name]
        if array.ndim == 1:
            assert np.array_equal(value, array)
            continue
        dense = dequantise_matrix(value)  # type: ignore[arg-type]
        assert np.array_equal(floats[name], dense.T if ".c_" in name else dense)
        assert 0 < np.abs(floats[name] - array).max() < 0.05  # a step of 15 over about 0.6
    assert (tmp_path / "q/model.safetensors").stat().st_size < 0.35 * sum(a.nbytes for a in tensors.values())


def test_a_model_too_narrow_for_a_group_is_refused(tmp_path: Path) -> None:
    config = Gpt2Config(29, 16, 12, 2, 3, 48)
    with pytest.raises(ConvertError, match="multiple of 32"):
        write_checkpoint(tmp_path / "q", config, random_tensors(config), "mlx", bits=4)
    assert not list(tmp_path.iterdir())


def test_only_the_mlx_layout_is_quantised(tmp_path: Path) -> None:
    config = CONFIGS["square"]
    with pytest.raises(ConvertError, match="only the mlx layout"):
        write_checkpoint(tmp_path / "q", config, random_tensors(config), "hf", bits=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = CONFIGS["two group sizes"]
    write_checkpoint(tmp_path / "q", config, random_tensors(config), "mlx", bits=4)
    return tmp_path / "q"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"quantization": {"bits": 3, "group_size": 64}}, "3 bits; supported are 2, 4, 8"),
        ({"quantization": {"bits": 4, "group_size": 64, "mode": "mxfp4"}}, "mxfp4"),
        ({"quantization": {"bits": 8, "group_size": 64}}, "scales"),
        ({"quantization": {"bits": 4, "group_size": 16}}, "group size 16"),
        ({"quantization": {"bits": "4", "group_size": 64}}, '"4" bits'),
        ({"quantization": {"quant_method": "gptq", "bits": 4}}, "quantization is set"),
        ({"quantization": None, "quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config is set"),
        ({"quantization": None, "quantization_config": None}, "integer tensors"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_tensors_are_refused_by_name(
    folder: Path, change: dict[str, object], named: str
) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    del content["quantization_config"]
    path.write_text(json.dumps(content | change))
    with pytest.raises(ConvertError, match=named):
        read_checkpoint(folder)


def test_missing_and_misshapen_parts_are_named_together(folder: Path) -> None:
    path = folder / "model.safetensors"
    arrays = read_safetensors(path)
    del arrays["model.h.0.attn.c_attn.biases"]
    arrays["model.h.1.mlp.c_fc.scales"] = arrays["model.h.1.mlp.c_fc.scales"][:-1]
    path.unlink()
    write_safetensors(path, arrays)
    with pytest.raises(ConvertError) as error:
        read_checkpoint(folder)
    assert "model.h.0.attn.c_attn: needs weight, scales and biases" in str(error.value)
    assert "model.h.1.mlp.c_fc: scales [383, 3]" in str(error.value)


def test_a_scale_that_is_not_finite_is_refused_by_name(folder: Path) -> None:
    path = folder / "model.safetensors"
    arrays = read_safetensors(path)
    arrays["model.wte.scales"][2, 1] = np.nan
    path.unlink()
    write_safetensors(path, arrays)
    with pytest.raises(ConvertError, match=r"model\.wte\.scales has 1 non-finite value"):
        read_checkpoint(folder).load()


@by_bits
def test_a_matrix_of_several_blocks_is_quantised_row_by_row(bits: int) -> None:
    weight = np.random.default_rng(2).standard_normal((300, 1024)).astype(np.float32)  # two blocks and a half
    whole, rows = quantise_matrix(weight, bits, 64), [quantise_matrix(row[None], bits, 64) for row in weight]
    for number, part in enumerate(("values", "scales", "biases")):
        np.testing.assert_array_equal(whole[number], np.concatenate([row[number] for row in rows]), err_msg=part)
    np.testing.assert_array_equal(dequantise_matrix(whole), np.concatenate([dequantise_matrix(row) for row in rows]))
