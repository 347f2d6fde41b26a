"""Tab Songs: dropped files, health of a folder, and the base that can hold it."""

from __future__ import annotations

import shutil

import pytest

from musiclora.bundled import BUNDLED
from musiclora.errors import ConfigError
from musiclora.ui.commands import CommandState
from musiclora.ui.songs import add_songs, examine_folder, list_songs
from musiclora.ui.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "root").mkdir()
    return Workspace(tmp_path / "root")


def test_dropped_songs_are_copied_once_and_others_are_named(workspace, tmp_path, tunes):
    text = tmp_path / "notes.txt"
    text.write_text("no music")
    files = [str(path) for path in sorted(tunes.iterdir())] + [str(text)]
    assert add_songs(workspace, files, "mine") == (
        "songs/mine",
        "8 files added to songs/mine; 1 are no music and were left out",
    )
    (workspace.songs / "mine" / "x.abc").write_text("own")
    again = add_songs(workspace, files[:2], "mine")
    assert again[1] == "0 files added to songs/mine; 2 are there already and stay as they are"
    assert len(list_songs(workspace, "songs/mine")) == 9


@pytest.mark.parametrize(("files", "name"), [([], "mine"), (["a.txt"], "mine"), (["a.mid"], "../mine")])
def test_nothing_is_made_where_nothing_can_be_added(workspace, files, name):
    with pytest.raises(ConfigError):
        add_songs(workspace, files, name)
    assert list(workspace.root.iterdir()) == []


@pytest.mark.slow
def test_the_base_that_keeps_the_songs_is_named_with_the_reason(workspace, tunes):
    band = workspace.songs / "band"
    band.mkdir(parents=True)
    for path in sorted((BUNDLED / "songs").glob("*.mid"))[:3]:
        shutil.copy(path, band)
    shutil.copytree(tunes, workspace.songs / "tunes")
    (workspace.songs / "tunes" / "broken.mid").write_bytes(b"MThd")

    *states, found = examine_folder(workspace, "songs/band")
    assert all(isinstance(state, CommandState) for state in states)
    assert found.best == "bundled-band"
    assert [row[:2] for row in found.bases] == [["bundled", "in part"], ["bundled-band", "yes"]]
    assert "drum notes" in found.bases[0][2]
    assert len(found.rows) == 3

    *_, found = examine_folder(workspace, "songs/tunes")
    assert found.best == "bundled"
    assert found.bases[0][1] == "yes"
    row = next(row for row in found.rows if row[0] == "broken.mid")
    assert row[1] == "skipped"
    assert row[-1]


def test_a_folder_without_music_is_one_line(workspace):
    (workspace.root / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty"):
        list(examine_folder(workspace, "empty"))
