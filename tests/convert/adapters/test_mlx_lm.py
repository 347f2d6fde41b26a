"""mlx-lm's adapters against mlx-lm's own loader."""

import json
from pathlib import Path

import numpy as np
import pytest
import tolerance
from require import require

from musiclora.convert.adapters.lora import LoraSpec, alpha_for, state_shapes
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.mlx_lm import read_mlx_lm, write_mlx_lm
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.gpt2 import Gpt2Config, write_checkpoint

CONFIG = Gpt2Config(vocab_size=31, n_positions=16, n_embd=12, n_layer=3, n_head=3, n_inner=48)
SPECS = {
    "all targets": LoraSpec(4, 6.5, 0.05, ("c_attn", "c_proj", "c_fc")),
    "square target at full rank": LoraSpec(12, 3.0, 0.0, ("attn.c_proj",)),
    "one block only": LoraSpec(3, 5.0, 0.0, ("transformer.h.1.mlp.c_proj", "transformer.h.1.attn.c_proj")),
    "the first blocks only": LoraSpec(2, 5.0, 0.0, ("transformer.h.0.mlp.c_fc", "transformer.h.1.mlp.c_fc")),
    "a path suffix of the first block": LoraSpec(2, 5.0, 0.0, ("h.0.attn.c_attn",)),
    "a number as the end of a path": LoraSpec(2, 5.0, 0.0, ("0.attn.c_attn", "1.attn.c_attn")),
    "rslora": LoraSpec(5, 7.0, 0.0, ("mlp.c_proj",), rslora=True),
}
by_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def random_state(spec: LoraSpec) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = state_shapes(spec, CONFIG.linear_shapes())
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.standard_normal(s).astype(np.float32) * 0.3 for name, s in CONFIG.tensor_shapes().items()}


@by_spec
def test_peft_to_mlx_lm_and_back_is_exact(spec: LoraSpec, tmp_path: Path) -> None:
    state = random_state(spec)
    write_mlx_lm(tmp_path / "m", LoraAdapter.from_spec(spec, state, "base", record={"family": "symbolic"}))
    adapter = read_mlx_lm(tmp_path / "m")
    assert adapter.spec.scale == spec.scale
    assert (adapter.spec.rank, adapter.base_model, adapter.record) == (spec.rank, "base", {"family": "symbolic"})
    assert set(adapter.state) == set(state)
    assert all(np.array_equal(adapter.state[n], a) for n, a in state.items())
    # The targets, too, must mean the same modules on a real model, or PEFT would add untrained ones.
    assert set(state_shapes(adapter.spec, CONFIG.linear_shapes())) == set(state)


@by_spec
def test_mlx_lms_own_loader_computes_the_update_we_mean(spec: LoraSpec, tmp_path: Path) -> None:
    mx, utils = require("mlx.core"), require("mlx_lm.utils")
    from mlx_lm.tuner.utils import load_adapters

    weights, state = tensors(), random_state(spec)
    write_checkpoint(tmp_path / "base", CONFIG, weights, "mlx")
    write_mlx_lm(tmp_path / "a", LoraAdapter.from_spec(spec, state, "base"))
    model = load_adapters(utils.load_model(tmp_path / "base", strict=True)[0], str(tmp_path / "a")).eval()
    for key in (key for key in state if key.endswith("lora_A.weight")):
        update = state[key.replace("lora_A", "lora_B")] @ state[key]
        module = key.removesuffix(".lora_A.weight")
        weights[f"{module}.weight"] = weights[f"{module}.weight"] + spec.scale * update.T
    write_checkpoint(tmp_path / "fused", CONFIG, weights, "mlx")
    fused = utils.load_model(tmp_path / "fused", strict=True)[0]
    tokens = mx.array(np.random.default_rng(1).integers(0, 31, (2, 9)))
    expected, found = np.array(fused(tokens)), np.array(model(tokens))
    tolerance.assert_near(found, expected, tolerance.logits(expected))


def test_an_adapter_trained_by_mlx_lm_reads_with_its_values(tmp_path: Path) -> None:
    mx, utils = require("mlx.core"), require("mlx_lm.utils")
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    write_checkpoint(tmp_path / "base", CONFIG, tensors(), "mlx")
    model = utils.load_model(tmp_path / "base", strict=True)[0]
    parameters = {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": ["attn.c_attn", "mlp.c_proj"]}
    model.freeze()
    linear_to_lora_layers(model, 2, parameters)
    arrays = {n: mx.random.normal(a.shape) for n, a in tree_flatten(model.trainable_parameters())}
    (tmp_path / "a").mkdir()
    mx.save_safetensors(str(tmp_path / "a" / "adapters.safetensors"), arrays)
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters, "model": "x"}
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    adapter = read_mlx_lm(tmp_path / "a")
    assert adapter.spec.scale == 20
    assert len(adapter.state) == len(arrays) == 8
    for name, array in adapter.state.items():
        theirs = name.replace("transformer.", "model.").replace(".lora_A.weight", ".lora_a")
        assert np.array_equal(array, np.array(arrays[theirs.replace(".lora_B.weight", ".lora_b")]).T)
    assert set(state_shapes(adapter.spec, CONFIG.linear_shapes())) == set(adapter.state)


def test_unequal_ranks_and_scales_are_made_uniform_without_changing_any_update(tmp_path: Path) -> None:
    spec = SPECS["all targets"]
    write_peft(tmp_path / "a", spec, random_state(spec), base_model="b")
    whole = read_peft(tmp_path / "a")
    ranks = {m: 1 + k % spec.rank for k, m in enumerate(whole.ranks)}
    state = {n: a[: ranks[n[:-14]]] if "lora_A" in n else a[:, : ranks[n[:-14]]] for n, a in whole.state.items()}
    scales = {m: 0.37 * (1 + k % 3) for k, m in enumerate(ranks)}
    uneven = LoraAdapter(spec, state, "", {}, {}, ranks, scales)
    write_mlx_lm(tmp_path / "m", uneven)
    back = read_mlx_lm(tmp_path / "m")
    for module, scale in scales.items():
        expected = scale * state[f"{module}.lora_B.weight"].astype(np.float64) @ state[f"{module}.lora_A.weight"]
        found = back.scales[module] * back.state[f"{module}.lora_B.weight"] @ back.state[f"{module}.lora_A.weight"]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)  # B is rounded once, to float32


@pytest.mark.parametrize(("scale", "rank"), [(1 / 3, 3), (6.5 / 7, 7), (20.0, 8), (0.1, 11)], ids=str)
def test_alpha_is_found_so_that_its_quotient_is_the_scale_exactly(scale: float, rank: int) -> None:
    assert alpha_for(scale, rank) / rank == scale


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mlx_lm(tmp_path / "m", LoraAdapter.from_spec(SPECS["all targets"], random_state(SPECS["all targets"])))
    return tmp_path / "m"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fine_tune_type": "dora"}, "no magnitude vector"),
        ({"fine_tune_type": "full"}, 'fine_tune_type "full" is not supported, only lora and dora are'),
        ({"lora_parameters": {"rank": 4, "scale": 1.0, "dropout": 1.0}}, "json: LoRA dropout is 1.0"),
        ({"lora_parameters": {"rank": 4, "alpha": 8}}, "scale"),
        ({"lora_parameters": {"rank": 5, "scale": 1.0}}, "expected"),
        ({"lora_parameters": {"rank": 4, "scale": 1.0, "keys": ["attn.c_attn"]}}, "not among the keys"),
        ({"num_layers": 2}, "num_layers is 2, but there are arrays for the blocks 0 to 2"),
        ({"lora_parameters": {"rank": 4, "scale": 1.0, "keys": 7}}, "keys is 7, expected a list"),
    ],
    ids=str,
)
def test_what_is_not_lora_or_does_not_fit_is_refused_by_name(
    folder: Path, change: dict[str, object], named: str
) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConvertError, match=named):
        read_mlx_lm(folder)


def test_a_missing_array_that_mlx_lm_would_not_notice_is_an_error(folder: Path) -> None:
    path = folder / "adapters.safetensors"
    arrays = {
        name: array for name, array in read_safetensors(path).items() if not name.startswith("model.h.1.attn.c_attn")
    }
    path.unlink()
    write_safetensors(path, arrays)
    with pytest.raises(ConvertError, match=r"model\.h\.1\.attn\.c_attn has no arrays"):
        read_mlx_lm(folder)


def test_lora_on_an_embedding_is_refused_with_its_reason(folder: Path) -> None:
    path = folder / "adapters.safetensors"
    arrays = read_safetensors(path) | {"model.wte.lora_a": np.ones((31, 4), np.float32)}
    path.unlink()
    write_safetensors(path, arrays)
    with pytest.raises(ConvertError, match="tied output head"):
        read_mlx_lm(folder)


Blocks = dict[int, tuple[str, ...]]


def keyed(folder: Path, blocks: Blocks, keys: list[str] | None, layers: int) -> dict[str, np.ndarray]:
    """Write a folder as mlx-lm does, with arrays for some modules of some blocks."""
    rng = np.random.default_rng(0)
    arrays = {}
    for block, names in blocks.items():
        for name in names:
            out, inputs = CONFIG.linear_shapes()[f"transformer.h.{block}.{name}"]
            arrays[f"model.h.{block}.{name}.lora_a"] = rng.standard_normal((inputs, 2)).astype(np.float32)
            arrays[f"model.h.{block}.{name}.lora_b"] = rng.standard_normal((2, out)).astype(np.float32)
    folder.mkdir()
    write_safetensors(folder / "adapters.safetensors", arrays)
    parameters = {"rank": 2, "scale": 3.0, "dropout": 0.0, "keys": keys}
    config = {"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return arrays


ATTENTION, MLP = "attn.c_attn", "mlp.c_fc"
EVERY = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
KEYED = {
    "relative and full": ({1: (ATTENTION, MLP), 2: (ATTENTION,)}, [ATTENTION, "model.h.1.mlp.c_fc"], 2),
    "a name that GPT-2 lacks": ({1: (ATTENTION,), 2: (ATTENTION,)}, [ATTENTION, "attn.q_proj"], 2),
    "a key without arrays": ({2: (ATTENTION,)}, [ATTENTION, MLP], 1),
    "a block that is not there": ({0: (ATTENTION,)}, ["model.h.0.attn.c_attn", "model.h.99.attn.c_attn"], 1),
    "all blocks": ({k: (ATTENTION,) for k in range(3)}, [ATTENTION], -1),
    "more blocks than there are": ({k: (ATTENTION,) for k in range(3)}, [ATTENTION], 16),
    "no keys": ({2: EVERY}, None, 1),
}


@pytest.mark.parametrize(("blocks", "keys", "layers"), KEYED.values(), ids=KEYED.keys())
def test_keys_mean_what_they_mean_to_mlx_lm(
    blocks: Blocks, keys: list[str] | None, layers: int, tmp_path: Path
) -> None:
    arrays = keyed(tmp_path / "a", blocks, keys, layers)
    utils = require("mlx_lm.utils")
    from mlx_lm.tuner.utils import load_adapters

    write_checkpoint(tmp_path / "base", CONFIG, tensors(), "mlx")
    load_adapters(utils.load_model(tmp_path / "base", strict=True)[0], str(tmp_path / "a"))
    adapter = read_mlx_lm(tmp_path / "a")
    assert set(adapter.ranks) == {f"transformer.h.{block}.{n}" for block, names in blocks.items() for n in names}
    assert set(state_shapes(adapter.spec, CONFIG.linear_shapes())) == set(adapter.state)
    for name in ("h.2.attn.c_attn", "h.0.attn.c_attn"):
        if f"model.{name}.lora_a" in arrays:
            assert np.array_equal(adapter.state[f"transformer.{name}.lora_A.weight"].T, arrays[f"model.{name}.lora_a"])


def test_a_full_path_without_arrays_between_blocks_that_have_some_is_an_error(tmp_path: Path) -> None:
    keys = [f"model.h.{k}.attn.c_attn" for k in range(3)]
    keyed(tmp_path / "a", {0: (ATTENTION,), 2: (ATTENTION,)}, keys, 3)
    with pytest.raises(ConvertError, match=r"model\.h\.1\.attn\.c_attn has no arrays"):
        read_mlx_lm(tmp_path / "a")


def test_mlx_lms_own_load_opens_a_folder_with_miditoks_tokenizer_and_an_adapter(tmp_path: Path) -> None:
    load = require("mlx_lm.utils").load
    tokenizer = b'{"tokenization": "REMI", "config": {}}'
    write_checkpoint(tmp_path / "base", CONFIG, tensors(), "mlx", extra_files={"tokenizer.json": tokenizer})
    spec = SPECS["one block only"]
    write_mlx_lm(tmp_path / "a", LoraAdapter.from_spec(spec, random_state(spec), ""))
    model, _ = load(str(tmp_path / "base"), adapter_path=str(tmp_path / "a"))
    assert len([name for name, _ in model.named_modules() if name.endswith("c_proj.linear")]) == 2
