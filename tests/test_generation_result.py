"""Checks of a generation request that both families make."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from musiclora.errors import ConfigError
from musiclora.formats import output_paths
from musiclora.generation_result import check_comparison, complete_output, options_below


@pytest.mark.parametrize(
    ("name", "completed"),
    [("F", "F.wav"), ("F.wav", "F.wav"), ("F.FLAC", "F.FLAC"), ("F.aif", "F.aif")],
    ids=["no suffix", "first suffix", "other suffix in capitals", "alias"],
)
def test_an_output_name_is_completed_with_the_first_suffix(tmp_path, name, completed):
    assert complete_output(tmp_path / name, (".wav", ".flac"), aliases=(".aif",)) == tmp_path / completed


@pytest.mark.parametrize("name", ["F.mp3", "folder", "folder.wav"], ids=["other suffix", "folder", "folder by suffix"])
def test_an_output_that_the_family_cannot_write_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(ConfigError, match=r"expected a file name that ends in \.wav or \.flac$"):
        complete_output(tmp_path / name, (".wav", ".flac"), aliases=(".aif",))


def test_an_empty_output_name_is_refused():
    with pytest.raises(ConfigError, match="--output"):
        complete_output(Path(), (".mid",))


def test_comparing_needs_an_adapter():
    check_comparison(True, ["adapter"])
    check_comparison(False, [])
    with pytest.raises(ConfigError, match="give --adapter-dir"):
        check_comparison(True, [])


def test_options_below_their_minimum_or_not_finite_are_all_named():
    request = SimpleNamespace(count=0, max_new_tokens=0, guidance=float("nan"), seconds=float("inf"), seed=0)
    minima = (("count", 1), ("max_new_tokens", 1), ("guidance", 0), ("seconds", 1), ("seed", 0))
    assert options_below(request, minima) == [
        "--count is 0; it must be at least 1",
        "--max-new-tokens is 0; it must be at least 1",
        "--guidance is nan; it must be at least 0",
        "--seconds is inf; it must be at least 1",
    ]


def test_output_paths_are_numbered_for_several(tmp_path):
    assert output_paths(tmp_path / "F.mid", 1) == [tmp_path / "F.mid"]
    names = [p.name for p in output_paths(tmp_path / "F.mid", 3, "-base")]
    assert names == ["F-001-base.mid", "F-002-base.mid", "F-003-base.mid"]
