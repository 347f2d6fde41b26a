"""PEFT folders: written for and read by vanilla PEFT."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tolerance
from require import require

from musiclora.conversion.adapter import convert_adapter
from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.lora_adapter import LoraAdapter, make_uniform
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.adapters.peft_keys import known_keys
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


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kasa_config": {"beta": 1e-4}}, "KaSA"),
        ({"monteclora_config": {"num_samples": 4}}, "MonteCLoRA"),
        ({"lora_of_tomorrow": {"x": 1}}, r'"lora_of_tomorrow": \{"x": 1\}, an option that is not known here'),
        ({"init_lora_weights": "of_tomorrow"}, 'init_lora_weights "of_tomorrow"'),
        ({"rank_pattern": 5}, "rank_pattern is 5"),
        ({"alpha_pattern": ["c_attn"]}, r'alpha_pattern is \["c_attn"\], expected an object'),
        ({"lora_dropout": "0.1"}, 'lora_dropout is "0.1"'),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path is 5"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_an_option_that_would_be_ignored_or_misread_is_refused_by_name(
    folder: Path, changes: dict[str, object], named: str
) -> None:
    edit(folder / "adapter_config.json", **changes)
    with pytest.raises(ConvertError, match=named):
        read_peft(folder)


def test_every_option_of_the_installed_peft_is_known_and_its_default_is_harmless(folder: Path) -> None:
    peft = require("peft")
    options = peft.LoraConfig(r=4, lora_alpha=6.5, target_modules=["c_attn", "c_proj", "c_fc"]).to_dict()
    assert set(options) - known_keys() == set()
    edit(folder / "adapter_config.json", **(options | {"peft_type": "LORA", "target_modules": list(SPEC.targets)}))
    assert read_peft(folder).spec == SPEC


def test_unknown_options_without_a_value_and_training_settings_are_accepted(folder: Path) -> None:
    edit(
        folder / "adapter_config.json",
        of_tomorrow=None,
        another=False,
        third={},
        eva_config={"rho": 2.0},
        velora_config={"num_groups": 32},
        init_lora_weights="orthogonal",
    )
    assert read_peft(folder).spec == SPEC


def test_the_one_layer_that_is_transformed_may_be_layer_zero(tmp_path: Path) -> None:
    spec = LoraSpec(4, 6.5, 0.0, ("transformer.h.0.attn.c_attn",))
    write_peft(tmp_path / "a", spec, random_state(spec), base_model="")
    edit(tmp_path / "a" / "adapter_config.json", target_modules=["c_attn"], layers_to_transform=0)
    assert read_peft(tmp_path / "a").spec == spec


def uneven(tmp_path: Path) -> Path:
    """Write an adapter whose modules have their own ranks and scales."""
    ranks = {"transformer.h.0.attn.c_attn": (2, 0.5), "transformer.h.1.attn.c_attn": (4, 3.0)}
    rng = np.random.default_rng(0)
    state = {
        f"{module}.lora_{part}.weight": rng.standard_normal(shape).astype(np.float32)
        for module, (rank, _) in ranks.items()
        for part, shape in (("A", (rank, 12)), ("B", (36, rank)))
    }
    write_peft(tmp_path / "u", LoraSpec(4, 12.0, 0.0, ("c_attn",)), state, base_model="", rank_scales=ranks)
    return tmp_path / "u"


def read_like_peft_0_14(config: dict[str, Any], module: str) -> tuple[int, float]:
    """Find rank and alpha as PEFT 0.13 and 0.14 do (tuners/lora/model.py, `_create_and_replace`)."""
    keys = [*config["rank_pattern"], *config["alpha_pattern"]]
    key = next(filter(lambda key: re.match(rf".*\.{key}$", module), keys), module)
    return config["rank_pattern"].get(key, config["r"]), config["alpha_pattern"].get(key, config["lora_alpha"])


def test_own_ranks_are_written_so_that_old_versions_of_peft_find_them_too(tmp_path: Path) -> None:
    adapter = read_peft(uneven(tmp_path))
    for module, rank in adapter.ranks.items():
        assert read_like_peft_0_14(adapter.config, module) == (rank, adapter.scales[module] * rank)


@pytest.mark.parametrize(
    ("ranks", "alphas", "kept"),
    [
        ({"h.1.attn.c_attn": 4}, {"h.1.attn.c_attn": 12}, True),
        ({r"^transformer\.h\.1\.attn\.c_attn": 4}, {r"^transformer\.h\.1\.attn\.c_attn": 12}, False),
        ({"h.1.attn.c_attn": 4}, {"transformer.h.1.attn.c_attn": 12}, False),
    ],
    ids=["readable by all versions", "with a caret", "two names of one module"],
)
def test_a_copy_keeps_the_patterns_of_its_source_where_all_versions_of_peft_read_them(
    ranks: dict[str, int], alphas: dict[str, int], kept: bool, tmp_path: Path
) -> None:
    edit(uneven(tmp_path) / "adapter_config.json", r=2, lora_alpha=1, rank_pattern=ranks, alpha_pattern=alphas)
    done = convert_adapter(str(tmp_path / "u"), tmp_path / "copy", "peft")
    assert any("rank_pattern" in note for note in done.notes)
    first, copy = read_peft(tmp_path / "u"), read_peft(tmp_path / "copy")
    assert (copy.ranks, copy.scales) == (first.ranks, first.scales)
    assert ((copy.config["rank_pattern"], copy.config["alpha_pattern"]) == (ranks, alphas)) == kept
    for module, rank in copy.ranks.items():
        assert read_like_peft_0_14(copy.config, module) == (rank, copy.scales[module] * rank)
