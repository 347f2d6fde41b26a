"""Adapters as options name them, and their sum."""

from __future__ import annotations

import numpy as np
import pytest

from musiclora.adapters import parse_adapter
from musiclora.convert.adapters.combine import combine_adapters
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.errors import ConfigError, ConvertError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", ("a/b", 1.0)),
        ("a/b:0.5", ("a/b", 0.5)),
        ("a:b:-1e-1", ("a:b", -0.1)),
        ("C:\\runs\\mine", ("C:\\runs\\mine", 1.0)),
        ("C:\\runs\\mine:2", ("C:\\runs\\mine", 2.0)),
        ("owner/name:0", ("owner/name", 0.0)),
    ],
    ids=str,
)
def test_parse_adapter_takes_a_number_after_the_last_colon(text, expected):
    assert parse_adapter(text) == expected


def test_parse_adapter_takes_an_existing_path_as_it_is(tmp_path):
    odd = tmp_path / "take:2"
    odd.mkdir()
    assert parse_adapter(str(odd)) == (str(odd), 1.0)
    assert parse_adapter(f"{odd}:0.25") == (str(odd), 0.25)


@pytest.mark.parametrize("text", ["a:nan", "a:inf", ":0.5"])
def test_parse_adapter_refuses_what_is_no_strength(text):
    with pytest.raises(ConfigError, match="PATH:STRENGTH"):
        parse_adapter(text)


def adapter(rank: int, alpha: float, modules: dict[str, tuple[int, int]], seed: int, rslora: bool = False):
    rng = np.random.default_rng(seed)
    state = {}
    for module, (out, inputs) in modules.items():
        state[f"{module}.lora_A.weight"] = rng.normal(size=(rank, inputs)).astype(np.float32)
        state[f"{module}.lora_B.weight"] = rng.normal(size=(out, rank)).astype(np.float32)
    targets = tuple({m.rsplit(".", 1)[-1] for m in modules})
    return LoraSpec(rank, alpha, 0.1, targets, rslora), state


def update(spec: LoraSpec, state, module: str) -> np.ndarray:
    if f"{module}.lora_A.weight" not in state:
        return 0
    return spec.scale * state[f"{module}.lora_B.weight"] @ state[f"{module}.lora_A.weight"]


@pytest.mark.parametrize("strengths", [(1.0, 1.0), (0.5, -2.0), (0.0, 1.0)], ids=str)
def test_combined_adapter_is_the_weighted_sum_of_updates(strengths):
    shapes = {"h.0.c_attn": (9, 5), "h.0.c_proj": (4, 4), "h.1.c_fc": (3, 7)}
    one = adapter(3, 6.0, {m: shapes[m] for m in ("h.0.c_attn", "h.0.c_proj")}, 1)
    two = adapter(2, 5.0, {m: shapes[m] for m in ("h.0.c_proj", "h.1.c_fc")}, 2, rslora=True)
    spec, state = combine_adapters([(*one, strengths[0]), (*two, strengths[1])])
    assert spec.rank == 5
    for module in shapes:
        expected = strengths[0] * update(one[0], one[1], module) + strengths[1] * update(two[0], two[1], module)
        # float32 products of a few terms
        assert update(spec, state, module) == pytest.approx(expected, abs=1e-5)


def test_combining_one_adapter_changes_its_scale_only():
    spec, state = adapter(3, 6.0, {"h.0.c_attn": (9, 5)}, 1)
    found, same = combine_adapters([(spec, state, 0.5)])
    assert found.scale == spec.scale / 2
    assert all(np.array_equal(same[k], v) for k, v in state.items())


def test_adapters_of_different_shapes_are_refused():
    one, two = (adapter(2, 2.0, {"h.0.c_attn": shape}, 1) for shape in [(9, 5), (9, 6)])
    with pytest.raises(ConvertError, match=r"h.0.c_attn is \[9, 5\] in one and \[9, 6\]"):
        combine_adapters([(*one, 1.0), (*two, 1.0)])
