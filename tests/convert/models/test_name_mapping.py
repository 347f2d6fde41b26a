"""Name tables, read in both directions."""

import numpy as np
import pytest

from musiclora.convert.errors import ConvertError
from musiclora.convert.models.name_mapping import Rule, map_names, map_names_for_export

RULES = (
    Rule("blocks.{i}.w", "h.{i}.weight", transpose=True),
    Rule("blocks.{i}.mask", None, reason="a mask"),
    Rule("end", "final"),
    Rule("kernel", "conv", axes=(1, 2, 0)),
    Rule("alpha", "snake", expanded=True),
)
SOURCES = {
    "blocks.0.w": (2, 3),
    "blocks.1.w": (3, 3),
    "blocks.0.mask": (9,),
    "end": (4,),
    "kernel": (2, 3, 5),
    "alpha": (1, 6, 1),
}
TARGETS = {"h.0.weight": (3, 2), "h.1.weight": (3, 3), "final": (4,), "conv": (3, 5, 2), "snake": (6,)}


def test_every_source_is_moved_or_dropped_with_its_reason() -> None:
    result = map_names(RULES, SOURCES, TARGETS, "f")
    assert {(m.source, m.target) for m in result.moves} == {
        ("blocks.0.w", "h.0.weight"),
        ("blocks.1.w", "h.1.weight"),
        ("end", "final"),
        ("kernel", "conv"),
        ("alpha", "snake"),
    }
    assert result.dropped == {"blocks.0.mask": "a mask"}


def test_the_same_table_read_backwards_undoes_the_mapping_in_name_and_value() -> None:
    forward = map_names(RULES, SOURCES, TARGETS, "f").moves
    back = map_names_for_export(RULES, TARGETS)
    for move in forward:
        array = np.random.default_rng(0).random(SOURCES[move.source])
        there = move.apply(array)
        assert there.shape == TARGETS[move.target]
        assert back[move.target] == move.reversed()
        assert np.array_equal(back[move.target].apply(there), array)


def test_all_problems_come_in_one_error_under_the_names_of_the_source() -> None:
    sources = {**SOURCES, "blocks.0.w": (3, 2), "blocks.01.w": (3, 3), "who": (1,), "kernel": (3, 5, 2), "alpha": (6,)}
    del sources["blocks.1.w"]
    with pytest.raises(ConvertError) as error:
        map_names(RULES, sources, TARGETS, "the file")
    text = str(error.value)
    assert "the file" in text
    assert "blocks.0.w is [3, 2], expected [2, 3]" in text
    assert "blocks.1.w is missing" in text
    assert "blocks.01.w is surplus" in text
    assert "who is surplus" in text


def test_two_sources_for_one_target_are_an_error() -> None:
    rules = (*RULES, Rule("finale", "final"))
    with pytest.raises(ConvertError, match="same tensor as end"):
        map_names(rules, {**SOURCES, "finale": (4,)}, TARGETS, "f")


def test_a_canonical_name_that_no_line_writes_is_an_error() -> None:
    with pytest.raises(ConvertError, match="no rule writes what"):
        map_names_for_export(RULES, ["what"])
