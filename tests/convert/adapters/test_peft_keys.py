"""Options of adapter_config.json: known ones, refused ones, and patterns that all versions of PEFT read."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from require import require

from musiclora.conversion.adapter import convert_adapter
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.adapters.peft_keys import known_keys
from musiclora.convert.errors import ConvertError

SPEC = LoraSpec(4, 6.5, 0.0, ("c_attn", "mlp.c_fc"))


def make_state(ranks: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        f"{module}.lora_{part}.weight": rng.standard_normal(shape).astype(np.float32)
        for module, rank in ranks.items()
        for part, shape in (("A", (rank, 12)), ("B", (36, rank)))
    }


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    modules = [f"transformer.h.{block}.{name}" for block in (0, 1) for name in ("attn.c_attn", "mlp.c_fc")]
    write_peft(tmp_path / "a", SPEC, make_state(dict.fromkeys(modules, 4)), base_model="")
    return tmp_path / "a"


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
        ({"lora_dropout": 1.0}, r"a: adapter_config.json: LoRA dropout is 1.0; it must lie in \[0, 1\)"),
        (
            {"target_modules": r".*h\.0\..*"},
            "does not match transformer.h.1.attn.c_attn; .*PEFT would leave",
        ),
        (
            {"target_modules": "c_attn|c_fc"},
            r'"c_attn\|c_fc" does not match transformer.h.0.attn.c_attn',
        ),
        ({"layers_to_transform": [1, 2]}, r"layers_to_transform \[1, 2\] leaves transformer.h.0.attn.c_attn out"),
        ({"layers_to_transform": 0}, "layers_to_transform 0 leaves transformer.h.1.attn.c_attn out"),
        ({"exclude_modules": ["c_fc"]}, r'exclude_modules \["c_fc"\] leaves transformer.h.0.mlp.c_fc out'),
        ({"exclude_modules": r".*\.1\.attn.*"}, "leaves transformer.h.1.attn.c_attn out"),
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
    options = peft.LoraConfig(r=4, lora_alpha=6.5, target_modules=list(SPEC.targets)).to_dict()
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
    write_peft(tmp_path / "a", spec, make_state({spec.targets[0]: 4}), base_model="")
    edit(tmp_path / "a" / "adapter_config.json", target_modules=["c_attn"], layers_to_transform=0)
    assert read_peft(tmp_path / "a").spec == spec


def uneven(tmp_path: Path) -> Path:
    """Write an adapter whose modules have their own ranks and scales."""
    own = {"transformer.h.0.attn.c_attn": (2, 0.5), "transformer.h.1.attn.c_attn": (4, 3.0)}
    state = make_state({module: rank for module, (rank, _) in own.items()})
    write_peft(tmp_path / "u", LoraSpec(4, 12.0, 0.0, ("c_attn",)), state, base_model="", rank_scales=own)
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


@pytest.mark.parametrize("unreached", [{"h.0.attn.c_attn": 0}, {"h.0.attn.c_attn": -3}, {"(": 5}])
def test_a_pattern_that_only_old_versions_of_peft_reach_is_not_kept(tmp_path: Path, unreached: dict[str, int]) -> None:
    module, other = "transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_fc"
    scales = {module: (4, 1.0), other: (8, 1.0)}
    spec, state = LoraSpec(8, 8.0, 0.0, (module, other)), make_state({module: 4, other: 8})
    write_peft(tmp_path / "a", spec, state, base_model="", rank_scales=scales)
    edit(tmp_path / "a" / "adapter_config.json", r=8, rank_pattern={module: 4, other: 8, **unreached})
    convert_adapter(str(tmp_path / "a"), tmp_path / "b", "peft")
    written = read_peft(tmp_path / "b")
    assert written.ranks == {module: 4, other: 8}
    assert not unreached.keys() & written.config["rank_pattern"].keys()


def test_cuts_that_agree_with_the_arrays_are_accepted(folder: Path) -> None:
    pattern = r"(transformer\.)?h\.\d+\.(attn|mlp)\.(c_attn|c_fc)"
    for changes in (
        {"target_modules": pattern, "exclude_modules": r".*c_proj"},
        {"target_modules": r"transformer(?=\.h).*"},  # beyond what is judged here
        {"target_modules": "all-linear"},
        {"layers_to_transform": [0, 1], "exclude_modules": ["mlp.c_proj"]},
    ):
        shutil.copytree(folder, folder.parent / "b")
        edit(folder.parent / "b" / "adapter_config.json", **changes)
        assert len(read_peft(folder.parent / "b").ranks) == 4
        shutil.rmtree(folder.parent / "b")


def test_patterns_that_say_one_thing_of_all_modules_become_one_rank(folder: Path) -> None:
    rank_pattern, alpha_pattern = {r"h.\d+.attn.c_attn": 4, "c_fc": 4}, {"c_attn": 3, "mlp.c_fc": 3}
    edit(folder / "adapter_config.json", r=8, lora_alpha=9, rank_pattern=rank_pattern, alpha_pattern=alpha_pattern)
    done = convert_adapter(str(folder), folder.parent / "out", "peft")
    config = json.loads((folder.parent / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["alpha_pattern"]) == (4, 3, {}, {})
    assert not done.notes
