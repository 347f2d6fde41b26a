"""The Oobleck codec: names and shapes of the original, weight norm, every container."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import tolerance
from require import require

from musiclora.conversion.model import convert_model
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.oobleck import OobleckConfig, fold_weight_norm, read_oobleck, write_oobleck

GOLDEN = Path(__file__).parents[2] / "golden" / "diffrhythm"
CONFIGS = {
    "five stages": OobleckConfig(4, (1, 2, 4, 8, 16), (2, 4, 4, 8, 8), 6, 12, 2),
    "two stages, mono": OobleckConfig(3, (1, 2), (3, 2), 5, 10, 1),
    "square, as diffusers can hold": OobleckConfig(4, (1, 1), (2, 2), 4, 4, 4),
}
by_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
FITS_DIFFUSERS = CONFIGS["square, as diffusers can hold"]


def random_tensors(config: OobleckConfig, *, normed: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = config.normed_shapes() if normed else config.tensor_shapes()
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(np.array_equal(first[n], second[n]) for n in first)


def test_names_and_shapes_are_those_of_the_original() -> None:
    pairs = [line.split("\t") for line in (GOLDEN / "vae_keys.txt").read_text().splitlines()]
    config = OobleckConfig(128, (1, 2, 4, 8, 16), (2, 4, 4, 8, 8))
    assert config.normed_shapes() == {name: ast.literal_eval(shape) for name, shape in pairs}
    assert config.hop == 2048
    assert sum(int(np.prod(shape)) for shape in config.tensor_shapes().values()) == 156_077_696


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed conv"])
def test_folding_is_torchs_weight_norm(transposed: bool) -> None:
    torch = require("torch")
    kind = torch.nn.ConvTranspose1d if transposed else torch.nn.Conv1d
    layer = torch.nn.utils.parametrizations.weight_norm(kind(5, 7, 3))
    pair = layer.parametrizations.weight
    with torch.no_grad():
        pair.original0.mul_(1.7)
    gain, direction = pair.original0.detach().numpy(), pair.original1.detach().numpy()
    # The norm sums the squares of up to 21 values; a root, a quotient and a product follow.
    rtol = tolerance.rounding(direction[0].size + 3)
    np.testing.assert_allclose(fold_weight_norm(gain, direction), layer.weight.detach().numpy(), rtol=rtol)


def test_a_direction_of_zero_is_an_error_and_not_a_nan() -> None:
    with pytest.raises(ConvertError, match="not finite"):
        fold_weight_norm(np.ones((2, 1, 1), np.float32), np.zeros((2, 3, 3), np.float32))


@by_config
@pytest.mark.parametrize("layout", ["hf", "mlx", "diffusers", "pretransform"])
def test_every_container_gives_back_every_bit(config: OobleckConfig, layout: str, tmp_path: Path) -> None:
    tensors = random_tensors(config)
    if layout == "pretransform":
        stored = {f"pretransform.model.{name}": array for name, array in tensors.items()}
        write_safetensors(tmp_path / "f.safetensors", stored)
        checkpoint = read_oobleck(tmp_path / "f.safetensors")
    elif layout == "diffusers" and config != FITS_DIFFUSERS:
        with pytest.raises(ConvertError, match="cannot hold this codec"):
            write_oobleck(tmp_path / "out", config, tensors.items(), layout, "float32", weight_norm=True)
        return
    else:
        write_oobleck(tmp_path / "hf", config, tensors.items(), "hf", "float32")
        convert_model(tmp_path / "hf", tmp_path / "out", layout)
        checkpoint = read_oobleck(tmp_path / "out")
    assert (checkpoint.layout, checkpoint.config) == (layout, config)
    assert same(dict(checkpoint.tensors()), tensors)


@by_config
@pytest.mark.parametrize("normed", [False, True], ids=["folded", "weight norm"])
def test_a_bare_file_is_read_by_its_shapes(config: OobleckConfig, normed: bool, tmp_path: Path) -> None:
    tensors = random_tensors(config, normed=normed)
    write_safetensors(tmp_path / "f.safetensors", tensors)
    checkpoint = read_oobleck(tmp_path / "f.safetensors")
    assert (checkpoint.config, checkpoint.weight_norm) == (config, normed)
    assert same(dict(checkpoint.tensors(weight_norm=normed)), tensors)
    folded = dict(checkpoint.tensors())
    assert {name: array.shape for name, array in folded.items()} == config.tensor_shapes()
    if normed:
        name = "decoder.layers.1.layers.1.weight"
        assert np.array_equal(folded[name], fold_weight_norm(tensors[f"{name}_g"], tensors[f"{name}_v"]))


def test_convert_folds_for_mlx_and_keeps_weight_norm_for_the_original(tmp_path: Path) -> None:
    config = CONFIGS["five stages"]
    tensors = random_tensors(config, normed=True)
    tensors = {name: array.astype(np.float16) if name.endswith("_v") else array for name, array in tensors.items()}
    write_safetensors(tmp_path / "f.safetensors", tensors)
    convert_model(tmp_path / "f.safetensors", tmp_path / "hf", "hf")
    kept = read_safetensors(tmp_path / "hf" / "model.safetensors")
    assert same(kept, tensors)
    assert all(kept[name].dtype == array.dtype for name, array in tensors.items())
    result = convert_model(tmp_path / "hf", tmp_path / "mlx", "mlx")
    assert any("folded" in note for note in result.notes)
    stored = read_safetensors(tmp_path / "mlx" / "model.safetensors")
    weight = "decoder.layers.1.layers.1.weight"
    expected = fold_weight_norm(tensors[f"{weight}_g"], tensors[f"{weight}_v"])
    assert np.array_equal(stored[weight], expected.transpose(1, 2, 0))  # torch [in, out, k] -> MLX [out, k, in]
    conv = "encoder.layers.1.layers.0.layers.1.weight"
    expected = fold_weight_norm(tensors[f"{conv}_g"], tensors[f"{conv}_v"])
    assert np.array_equal(stored[conv], expected.transpose(0, 2, 1))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_folding_gain_and_direction_of_any_precision_gives_float32(dtype: str, tmp_path: Path) -> None:
    config = CONFIGS["two stages, mono"]
    tensors = {name: array.astype(dtype) for name, array in random_tensors(config, normed=True).items()}
    write_safetensors(tmp_path / "f.safetensors", tensors)
    convert_model(tmp_path / "f.safetensors", tmp_path / "out", "mlx")
    checkpoint = read_oobleck(tmp_path / "out")
    name = "decoder.layers.1.layers.1.weight"
    assert checkpoint.dtypes[name] == np.float32
    assert checkpoint.dtypes["decoder.layers.0.bias"] == ("float32" if dtype == "float64" else dtype)  # MLX lacks it
    assert np.array_equal(
        dict(checkpoint.tensors())[name], fold_weight_norm(tensors[f"{name}_g"], tensors[f"{name}_v"])
    )


def test_diffusers_names_are_those_of_its_own_class_which_knows_gain_and_direction_only(tmp_path: Path) -> None:
    tensors = random_tensors(FITS_DIFFUSERS)
    dead = "encoder.layers.1.layers.4.weight"
    tensors[dead][2] = 0  # torch's weight norm would make this kernel NaN if its direction were zero, too
    write_safetensors(tmp_path / "f.safetensors", tensors)
    convert_model(tmp_path / "f.safetensors", tmp_path / "d", "diffusers")
    stored = read_safetensors(tmp_path / "d" / "diffusion_pytorch_model.safetensors")
    pairs = {
        "encoder.conv1.weight": "encoder.layers.0.weight",
        "encoder.block.1.res_unit2.conv1.weight": "encoder.layers.2.layers.1.layers.1.weight",
        "encoder.block.0.conv1.weight": dead,
        "encoder.block.0.conv1.bias": "encoder.layers.1.layers.4.bias",
        "encoder.snake1.alpha": "encoder.layers.3.alpha",
        "decoder.block.0.snake1.beta": "decoder.layers.1.layers.0.beta",
        "decoder.block.1.conv_t1.weight": "decoder.layers.2.layers.1.weight",
        "decoder.block.1.res_unit3.snake2.alpha": "decoder.layers.2.layers.4.layers.2.alpha",
        "decoder.conv2.weight": "decoder.layers.4.weight",
    }
    for theirs, ours in pairs.items():
        if theirs.endswith(".weight"):
            gain, direction = stored[f"{theirs}_g"], stored[f"{theirs}_v"]
            norms = np.sqrt((direction.astype(np.float64) ** 2).sum(axis=(1, 2), keepdims=True))
            # The gain, the product and the quotient are rounded once each.
            np.testing.assert_allclose(gain * direction / norms, tensors[ours], rtol=tolerance.rounding(3))
        else:
            expected = tensors[ours][None, :, None] if theirs.endswith(("alpha", "beta")) else tensors[ours]
            assert np.array_equal(stored[theirs], expected)
    assert set(stored) >= {"decoder.conv2.weight_g"}
    assert not any(name.endswith(".weight") for name in stored)
    assert same(dict(read_oobleck(tmp_path / "d").tensors()), tensors)
    assert json.loads((tmp_path / "d" / "config.json").read_text())["downsampling_ratios"] == [2, 2]


def test_a_torchscript_codec_converts_into_the_model_folder_without_torch_running_it(tmp_path: Path) -> None:
    torch = require("torch")
    import warnings

    config = CONFIGS["two stages, mono"]
    tensors = random_tensors(config)

    class Node(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
            return x

    root = Node()
    for name, array in tensors.items():
        node = root
        for part in name.split(".")[:-1]:
            if not hasattr(node, part):
                node.add_module(part, Node())
            node = getattr(node, part)
        node.register_parameter(name.rsplit(".", 1)[-1], torch.nn.Parameter(torch.from_numpy(array)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and the published file was made with it
        torch.jit.script(root).save(str(tmp_path / "vae_model.pt"))
    convert_model(tmp_path / "vae_model.pt", tmp_path / "out", "mlx")
    assert same(dict(read_oobleck(tmp_path / "out").tensors()), tensors)


def test_missing_and_surplus_layers_are_named_together(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIGS["five stages"])
    del tensors["decoder.layers.6.alpha"]
    tensors["encoder.layers.9.weight"] = np.ones((2, 2, 2), np.float32)
    write_safetensors(tmp_path / "f.safetensors", tensors)
    with pytest.raises(
        ConvertError, match=r"encoder\.layers\.9\.weight is surplus.*decoder\.layers\.6\.alpha is missing"
    ):
        read_oobleck(tmp_path / "f.safetensors")
