"""Targets and ranks that do not fit are refused by name, before anything is loaded."""

from __future__ import annotations

import pytest

from musiclora.convert.adapters.lora import check_rank, match_targets
from musiclora.errors import ConfigError, list_names

SHAPES = {"h.0.attn.c_attn": (192, 64), "h.0.mlp.c_fc": (256, 64)}


@pytest.mark.parametrize(("rank", "fits"), [(64, True), (65, False), (100_000, False)])
def test_a_rank_above_the_smaller_side_is_refused(rank, fits):
    if fits:
        check_rank(rank, SHAPES, "--lora-r")
        return
    with pytest.raises(ConfigError, match=rf"--lora-r is {rank}; h.0.attn.c_attn is 192 x 64.* at most 64"):
        check_rank(rank, SHAPES, "--lora-r")


def test_all_names_that_exist_are_listed():
    names = [f"part_{i:02d}" for i in range(12)]
    with pytest.raises(ConfigError, match="part_11"):
        match_targets([f"block.{name}" for name in names], ["missing"])


def test_a_very_long_list_ends_with_a_count():
    assert list_names([f"n{i}" for i in range(60)]).endswith("n39 and 20 more")
