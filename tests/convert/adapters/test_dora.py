"""DoRA adapters: reading, writing and fusing, against vanilla PEFT and mlx-lm."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tolerance
from click.testing import CliRunner, Result
from require import require

from musiclora.cli import main
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.lora_math import Dora, fuse_tensors
from musiclora.convert.adapters.mlx_lm import read_mlx_lm, write_mlx_lm
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.gpt2 import Gpt2Config, read_checkpoint, write_checkpoint

CONFIG = Gpt2Config(vocab_size=40, n_positions=16, n_embd=12, n_layer=2, n_head=3, n_inner=48)
SPEC = LoraSpec(4, 6.5, 0.0, ("c_attn", "c_proj", "c_fc"))  # attn.c_proj is square


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {n: rng.standard_normal(s).astype(np.float32) * 0.3 for n, s in CONFIG.tensor_shapes().items()}


def random_adapter(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    state = {
        n: rng.standard_normal(s).astype(np.float32) * 0.3
        for n, s in state_shapes(SPEC, CONFIG.linear_shapes()).items()
    }
    lengths = {m: rng.uniform(0.5, 2, out).astype(np.float32) for m, (out, _) in CONFIG.linear_shapes().items()}
    return state, lengths


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(np.array_equal(first[n], second[n]) for n in first)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "base", CONFIG, tensors(), "hf")
    write_checkpoint(tmp_path / "mlx", CONFIG, tensors(), "mlx")
    state, lengths = random_adapter()
    write_peft(tmp_path / "a", SPEC, state, base_model="base", magnitudes=lengths)
    return tmp_path


def adapted(seed: int = 0, strength: float = 1.0) -> dict[str, np.ndarray]:
    """Compute the fused weights by the paper's formula, dense and in float64."""
    state, lengths = random_adapter(seed)
    weights = {n: a.astype(np.float64) for n, a in tensors().items()}
    for module, length in lengths.items():
        weight = weights[f"{module}.weight"].T
        moved = weight + SPEC.scale * state[f"{module}.lora_B.weight"].astype(np.float64) @ state[
            f"{module}.lora_A.weight"
        ].astype(np.float64)
        fused = length[:, None] * moved / np.linalg.norm(moved, axis=1, keepdims=True)
        weights[f"{module}.weight"] = (weight + strength * (fused - weight)).T
    return weights


def near(array: np.ndarray) -> float:
    """float32: a row's norm of up to 48 squares, a sum over the rank, and a handful of other roundings."""
    return tolerance.rounding(48 + 3 + 8, max(1.0, float(np.abs(array).max())))


def test_fusing_gives_every_row_its_direction_and_length(work: Path) -> None:
    assert run("fuse", "--adapter-dir", "a", "--output-dir", "out").exit_code == 0
    found = read_checkpoint(Path("out")).load()
    for name, array in adapted().items():
        tolerance.assert_near(found[name], array, near(array), name)
    name = "transformer.h.1.attn.c_proj"
    np.testing.assert_allclose(np.linalg.norm(found[f"{name}.weight"], axis=0), random_adapter()[1][name], rtol=1e-5)


def test_a_strength_scales_what_the_adapter_changes_and_adapters_add_up(work: Path) -> None:
    state, lengths = random_adapter(1)
    write_peft(work / "b", SPEC, state, base_model="base", magnitudes=lengths)
    plain = {n: a for n, a in random_adapter(2)[0].items() if "c_fc" in n}
    write_peft(work / "c", LoraSpec(4, 2.0, 0.0, ("c_fc",)), plain, base_model="base")
    assert run("fuse", "--adapter-dir", "a:0.5", "b:-1", "c:3", "--output-dir", "out").exit_code == 0
    base, first, second = tensors(), adapted(0, 0.5), adapted(1, -1.0)
    for name, array in read_checkpoint(Path("out")).load().items():
        expected = first[name] + second[name] - base[name]
        module = name.removesuffix(".weight")
        if f"{module}.lora_A.weight" in plain:
            update = plain[f"{module}.lora_B.weight"] @ plain[f"{module}.lora_A.weight"]
            expected = expected + 3 * 0.5 * update.T
        tolerance.assert_near(array, expected, 3 * near(expected), name)  # three adapters


def test_vanilla_peft_loads_ours_and_computes_what_the_fused_model_does(work: Path) -> None:
    torch, transformers, peft = (require(n) for n in ("torch", "transformers", "peft"))
    assert run("fuse", "--adapter-dir", "a", "--output-dir", "out").exit_code == 0
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 40, (2, 11)))
    fused = transformers.GPT2LMHeadModel.from_pretrained("out").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")
        model = peft.PeftModel.from_pretrained(transformers.GPT2LMHeadModel.from_pretrained("base"), "a").eval()
    with torch.inference_mode():
        expected, found = fused(tokens).logits.numpy(), model(tokens).logits.numpy()
        with model.disable_adapter():
            assert np.abs(model(tokens).logits.numpy() - expected).max() > 0.1
    tolerance.assert_near(found, expected, tolerance.logits(expected))


def test_an_adapter_saved_by_peft_reads_with_its_values(work: Path) -> None:
    torch, transformers, peft = (require(n) for n in ("torch", "transformers", "peft"))
    config = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=["c_attn", "c_proj"],
        use_dora=True,
        fan_in_fan_out=True,
        rank_pattern={"h.0.attn.c_proj": 2},
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(transformers.GPT2LMHeadModel.from_pretrained("base"), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.manual_seed(len(name))
            parameter.data = torch.rand_like(parameter) + 0.1
    model.save_pretrained(work / "theirs", save_embedding_layers=False)
    adapter = read_peft(work / "theirs")
    assert len(adapter.magnitudes) == len(adapter.ranks) == 6
    assert adapter.ranks["transformer.h.0.attn.c_proj"] == 2
    assert run("fuse", "--adapter-dir", "theirs", "--model", "base", "--output-dir", "out").exit_code == 0
    merged = model.merge_and_unload().state_dict()
    for name, array in read_checkpoint(Path("out")).load().items():
        tolerance.assert_near(array, merged[name], near(array), name)


def test_mlx_lms_own_loader_computes_what_the_fused_model_does(work: Path) -> None:
    mx, utils = require("mlx.core"), require("mlx_lm.utils")
    from mlx_lm.tuner.utils import load_adapters

    assert run("convert", "adapter", "a", "m", "--to", "mlx-lm").exit_code == 0
    assert run("fuse", "--adapter-dir", "a", "--output-dir", "out", "--to", "mlx").exit_code == 0
    tokens = mx.array(np.random.default_rng(1).integers(0, 40, (2, 9)))
    model = load_adapters(utils.load_model(work / "mlx", strict=True)[0], str(work / "m")).eval()
    expected = np.array(utils.load_model(work / "out", strict=True)[0](tokens))
    tolerance.assert_near(model(tokens), expected, tolerance.logits(expected))


def test_there_and_back_is_bit_for_bit_the_same(work: Path) -> None:
    assert run("convert", "adapter", "a", "m", "--to", "mlx-lm").exit_code == 0
    report = json.loads(run("convert", "adapter", "m", "back", "--to", "peft", "--json").stdout)
    assert report["update_difference"] == 0
    first, second = read_peft(work / "a"), read_peft(work / "back")
    assert same(first.state, second.state)
    assert same(first.magnitudes, second.magnitudes)
    assert second.config["use_dora"] is True


def test_conversions_compare_the_logits_of_both_adapters_fused(work: Path, any_backend: str) -> None:
    report = json.loads(run("convert", "adapter", "a", "m", "--to", "mlx-lm", "--json").stdout)
    assert report["backend"]
    assert report["logit_difference"] == 0
    assert report["largest_logit"] > 0.1


def test_ranks_that_differ_are_padded_without_changing_what_is_fused(work: Path) -> None:
    state, lengths = random_adapter()
    name = "transformer.h.0.attn.c_proj"
    narrow = state | {f"{name}.lora_A.weight": state[f"{name}.lora_A.weight"][:1]}
    narrow[f"{name}.lora_B.weight"] = state[f"{name}.lora_B.weight"][:, :1]
    path = work / "a" / "adapter_model.safetensors"
    path.unlink()
    arrays = {f"base_model.model.{n}": a for n, a in narrow.items()}
    arrays |= {f"base_model.model.{m}.lora_magnitude_vector": a for m, a in lengths.items()}
    write_safetensors(path, arrays)
    config = work / "a" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rank_pattern": {"h.0.attn.c_proj": 1}}))
    assert run("convert", "adapter", "a", "m", "--to", "mlx-lm").exit_code == 0
    adapter = read_mlx_lm(work / "m")
    found = dict(
        fuse_tensors(
            tensors().items(),
            None,
            {},
            conv1d=True,
            dora=[Dora(adapter.spec, adapter.state, adapter.magnitudes)],
        )
    )
    assert run("fuse", "--adapter-dir", "a", "--output-dir", "out").exit_code == 0
    for key, array in read_checkpoint(Path("out")).load().items():
        tolerance.assert_near(found[key], array, near(array), key)


def test_a_dora_rule_fuses_linear_layers_as_it_does_conv1d() -> None:
    state, lengths = random_adapter()
    dora = Dora(SPEC, state, lengths)
    weights = {n: a for n, a in tensors().items() if ".c_" in n and n.endswith("weight")}
    conv = dict(fuse_tensors(weights.items(), None, {}, conv1d=True, dora=[dora]))
    linear = dict(fuse_tensors(((n, a.T) for n, a in weights.items()), None, {}, conv1d=False, dora=[dora]))
    assert all(np.array_equal(conv[n], linear[n].T) for n in weights)


def test_a_row_of_zeros_stays_zero() -> None:
    module = "transformer.h.0.attn.c_proj"
    state = {f"{module}.lora_A.weight": np.zeros((1, 3)), f"{module}.lora_B.weight": np.zeros((3, 1))}
    dora = Dora(LoraSpec(1, 1.0, 0.0, (module,)), state, {module: np.ones(3, np.float32)})
    weight = np.diag([2.0, 0.0, 5.0]).astype(np.float32)
    ((_, fused),) = fuse_tensors([(f"{module}.weight", weight)], None, {}, conv1d=True, dora=[dora])
    assert np.array_equal(fused, np.diag([1.0, 0.0, 1.0]))


@pytest.mark.parametrize("to", ["peft", "mlx-lm"])
def test_magnitudes_that_do_not_fit_are_named_together_and_nothing_is_written(tmp_path: Path, to: str) -> None:
    state, lengths = random_adapter()
    names = list(lengths)
    wrong = {n: v for n, v in lengths.items() if n != names[0]} | {"x": np.ones(3), names[1]: np.ones(2)}
    wrong[names[2]] = np.full(CONFIG.n_inner, np.nan)
    write = {
        "peft": lambda: write_peft(tmp_path / "a", SPEC, state, base_model="", magnitudes=wrong),
        "mlx-lm": lambda: write_mlx_lm(tmp_path / "a", LoraAdapter.from_spec(SPEC, state, magnitudes=wrong)),
    }
    with pytest.raises(ConvertError) as error:
        write[to]()
    for words in (f"{names[0]} has no", "x has a magnitude vector, but no", f"{names[1]} is [2]", "48 non-finite"):
        assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_settings_and_vectors_must_agree(work: Path) -> None:
    path = work / "a" / "adapter_model.safetensors"
    arrays = {n: a for n, a in read_safetensors(path).items() if "magnitude" not in n}
    path.unlink()
    write_safetensors(path, arrays)
    with pytest.raises(ConvertError, match="no magnitude vector"):
        read_peft(work / "a")
