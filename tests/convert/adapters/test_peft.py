"""PEFT folders: written for and read by vanilla PEFT."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tolerance
from require import require

from musiclora.conversion.adapter import convert_adapter
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.lora_adapter import LoraAdapter, make_uniform
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.errors import ConfigError, ConvertError
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint

CONFIG = Gpt2Config(vocab_size=31, n_positions=16, n_embd=12, n_layer=2, n_head=3, n_inner=20)
SPEC = LoraSpec(4, 6.5, 0.0, ("c_attn", "c_proj", "c_fc"))


def random_state(spec: LoraSpec, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = state_shapes(spec, CONFIG.linear_shapes())
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def deltas(adapter: LoraAdapter) -> dict[str, np.ndarray]:
    return {
        m: s * adapter.state[f"{m}.lora_B.weight"].astype(np.float64) @ adapter.state[f"{m}.lora_A.weight"]
        for m, s in adapter.scales.items()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_peft(tmp_path / "a", SPEC, random_state(SPEC), base_model="base", record={"family": "symbolic"}, readme="hi")
    return tmp_path / "a"


def test_write_then_read_gives_back_every_value_and_setting(folder: Path) -> None:
    adapter = read_peft(folder)
    assert adapter.spec == SPEC
    assert (adapter.base_model, adapter.record) == ("base", {"family": "symbolic"})
    assert adapter.is_uniform
    expected = random_state(SPEC)
    assert set(adapter.state) == set(expected)
    assert all(np.array_equal(adapter.state[name], array) for name, array in expected.items())


@pytest.mark.parametrize(
    "spec",
    [SPEC, LoraSpec(3, 5.0, 0.1, ("attn.c_proj", "mlp.c_proj"), rslora=True), LoraSpec(12, 1.0, 0.0, ("c_attn",))],
    ids=["all targets, alpha a fraction", "square and rectangular, rslora", "rank equal to width"],
)
def test_vanilla_peft_loads_our_folder_with_every_value_and_no_warning(spec: LoraSpec, tmp_path: Path) -> None:
    torch = require("torch")
    peft = require("peft")
    transformers = require("transformers")
    weights, state = fresh_tensors(CONFIG, 0), random_state(spec)
    write_checkpoint(tmp_path / "base", CONFIG, weights, "hf")
    write_peft(tmp_path / "a", spec, state, base_model="base")
    base = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")
        model = peft.PeftModel.from_pretrained(base, tmp_path / "a").merge_and_unload()
    merged = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for module in CONFIG.linear_shapes():
        expected = weights[f"{module}.weight"]
        if f"{module}.lora_A.weight" in state:
            # Conv1D keeps [in, out], so the update [out, in] is added transposed.
            update = state[f"{module}.lora_B.weight"] @ state[f"{module}.lora_A.weight"]
            expected = expected + spec.scale * update.T
        # A sum over a rank of up to 12, of values of up to 5 each; the scale; the base's weight.
        tolerance.assert_near(merged[f"{module}.weight"], expected, tolerance.rounding(14, 12 * np.abs(expected).max()))
    assert torch.is_grad_enabled()


def test_an_adapter_saved_by_vanilla_peft_with_patterns_reads_with_its_ranks_and_scales(tmp_path: Path) -> None:
    torch = require("torch")
    peft = require("peft")
    transformers = require("transformers")
    write_checkpoint(tmp_path / "base", CONFIG, fresh_tensors(CONFIG, 0), "hf")
    base = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["c_attn", "mlp.c_proj"],
        rank_pattern={"h.1.attn.c_attn": 2},
        alpha_pattern={"mlp.c_proj": 3},
        use_rslora=True,
        fan_in_fan_out=True,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(base, config)
    model.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    before = {name: tensor.detach().numpy().copy() for name, tensor in base.state_dict().items()}
    merged = {name: tensor.numpy() for name, tensor in model.merge_and_unload().state_dict().items()}
    adapter = read_peft(tmp_path / "a")
    spec, state = make_uniform(adapter)
    assert adapter.ranks["transformer.h.1.attn.c_attn"] == 2
    assert spec.rank == 4
    for module, delta in deltas(adapter).items():
        difference = merged[f"{module}.weight"] - before[f"{module}.base_layer.weight"]
        # A sum over a rank of 4, read off weights of about one.
        limit = tolerance.rounding(4 + 4, max(1.0, float(np.abs(delta).max())))
        tolerance.assert_near(difference.T, delta, limit)
        same = spec.scale * state[f"{module}.lora_B.weight"] @ state[f"{module}.lora_A.weight"]
        tolerance.assert_near(same, delta, limit)


def test_a_copy_keeps_the_ranks_and_scales_of_its_modules_and_vanilla_peft_reads_them(tmp_path: Path) -> None:
    peft = require("peft")
    transformers = require("transformers")
    write_checkpoint(tmp_path / "base", CONFIG, fresh_tensors(CONFIG, 0), "hf")
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["c_attn", "attn.c_proj"],
        rank_pattern={"h.1.attn.c_attn": 2},
        alpha_pattern={"attn.c_proj": 3, "h.0.attn.c_attn": 0.1},
        use_rslora=True,
        fan_in_fan_out=True,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    base = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "base")
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "a", save_embedding_layers=False)
    done = convert_adapter(str(tmp_path / "a"), tmp_path / "b", "peft")
    assert done.update_difference is not None
    assert done.update_difference < 1e-15
    first, second = read_peft(tmp_path / "a"), read_peft(tmp_path / "b")
    assert first.ranks == second.ranks
    assert second.scales == pytest.approx(first.scales, rel=1e-15)
    assert all(np.array_equal(first.state[n], second.state[n]) for n in first.state)
    merged = []
    for name in "ab":
        model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "base")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")
            model = peft.PeftModel.from_pretrained(model, tmp_path / name)
        merged.append(model.merge_and_unload().state_dict())
    for name, tensor in merged[0].items():  # the scale may be rounded elsewhere in a sum over a rank of 4
        tolerance.assert_near(tensor, merged[1][name], tolerance.rounding(8, max(1.0, float(tensor.abs().max()))), name)


@pytest.mark.parametrize(
    "rename",
    [lambda n: n.removeprefix("base_model.model."), lambda n: n.replace(".weight", ".default.weight")],
    ids=["no prefix", "default infix"],
)
def test_other_spellings_of_the_keys_read_the_same(folder: Path, rename: object) -> None:
    path = folder / "adapter_model.safetensors"
    arrays = {rename(name): array for name, array in read_safetensors(path).items()}  # type: ignore[operator]
    path.unlink()
    write_safetensors(path, arrays)
    expected = random_state(SPEC)
    assert all(np.array_equal(array, expected[name]) for name, array in read_peft(folder).state.items())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"r": "4"}, 'r is "4", expected a whole number'),
        ({"r": 5}, "expected"),
        ({"lora_alpha": float("nan")}, "NaN is no number of JSON"),
        ({"lora_alpha": float("inf")}, "Infinity is no number of JSON"),
        ({"lora_alpha": 10**400}, "a number of 401 digits"),
        ({"alpha_pattern": {".*c_proj": 1e39}}, "c_proj are not usable"),
        ({"target_modules": ["c_attn"]}, "no target module"),
        ({"rank_pattern": {"(": 3}}, "rank_pattern"),
        ({"rank_pattern": {"(t|tr)+(?=x)": 3}}, "rank_pattern has an unusable pattern"),
        ({"rank_pattern": {".*c_attn": "3"}}, r'rank_pattern..\*c_attn is "3", expected a whole number'),
        ({"use_rslora": "false"}, 'use_rslora is "false", expected true or false'),
        ({"target_modules": [5]}, r"target_modules is \[5\], expected text"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_what_is_not_plain_lora_is_refused_by_name(folder: Path, changes: dict[str, object], named: str) -> None:
    edit(folder / "adapter_config.json", **changes)
    with pytest.raises((ConvertError, ConfigError), match=named):
        read_peft(folder)


def test_missing_misshaped_and_non_finite_arrays_are_named_together(tmp_path: Path) -> None:
    state = random_state(SPEC)
    names = list(state)
    del state[names[0]]
    state[names[2]] = state[names[2]].T
    state[names[4]][0, 0] = np.nan
    with pytest.raises(ConvertError) as error:
        write_peft(tmp_path / "a", SPEC, state, base_model="base")
    assert all(names[k] in str(error.value) for k in (0, 2, 4))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("base_model.model.x.lokr_w1", "LoKr"),
        ("transformer.h.0.attn.c_attn.lora_down.weight", r"no LoRA array; PEFT's are MODULE\.lora_A\.weight"),
        ("base_model.model.x.weight", r"x\.weight is no LoRA array$"),
    ],
    ids=["LoKr", "another format's name", "a weight"],
)
def test_a_file_with_other_keys_is_refused_by_name(name: str, named: str, folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    write_safetensors(folder / "adapter_model.safetensors", {name: np.ones((2, 2), np.float32)})
    with pytest.raises(ConvertError, match=named):
        read_peft(folder)
