"""`jobs.compare`: which family measures, and how the results of several measures are put together."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from musiclora.evaluation.comparison import ComparisonRequest, FolderComparison
from musiclora.jobs.comparison import _spec_of


@dataclass(frozen=True)
class Part:
    name: str
    notes: tuple[str, ...] = ()

    def as_json(self):
        return {self.name: len(self.name)}

    def lines(self):
        return [f"{self.name}: {len(self.name)}"]


def test_measures_keep_their_order_and_say_what_they_share_once():
    found = FolderComparison((Part("copies", ("short", "damaged")), Part("style", ("damaged", "few"))))
    assert found.as_json() == {"copies": 6, "style": 5, "notes": ["short", "damaged", "few"]}
    assert found.lines() == ["copies: 6", "style: 5"]


@pytest.mark.parametrize(
    ("generated", "real", "family"),
    [
        (["a.mid"], ["b.mid"], "symbolic"),
        (["a.wav"], ["b.wav"], "audio"),
        (["a.mid", "a.wav"], ["b.abc"], "symbolic"),
        (["a.mid", "a.wav"], ["b.flac"], "audio"),
        (["a.mid", "a.wav"], ["b.mid", "b.wav"], "audio"),
        ([], [], "audio"),
    ],
)
def test_the_generated_music_decides_the_family_and_the_other_folder_where_it_is_mixed(
    tmp_path, generated, real, family
):
    for folder, names in (("made", generated), ("real", real)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    assert _spec_of(ComparisonRequest(tmp_path / "made", tmp_path / "real")).family == family
    assert _spec_of(ComparisonRequest(tmp_path / "made", train_dir=tmp_path / "real")).family == family
