"""The page's folder: what is found in it, and that nothing outside can be named."""

from __future__ import annotations

import pytest

from musiclora.errors import ConfigError
from musiclora.ui.training_form import suggest_name, training_arguments
from musiclora.ui.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    root = tmp_path / "root"
    (root / "songs" / "mine").mkdir(parents=True)
    (root / "songs" / "mine" / "a.mid").write_bytes(b"")
    (root / "runs" / "one" / "adapter-best").mkdir(parents=True)
    for name in ("training_meta.json", "config.toml"):
        (root / "runs" / "one" / name).write_text("{}")
    (root / "runs" / "one" / "adapter-best" / "adapter_config.json").write_text("{}")
    (root / "runs" / "one" / "samples").mkdir()
    (root / "runs" / "one" / "samples" / "base.mid").write_bytes(b"")
    (root / "base").mkdir()
    (root / "base" / "config.json").write_text("{}")
    (root / "base" / "model.safetensors").write_bytes(b"")
    (root / ".hidden" / "songs").mkdir(parents=True)
    (root / ".hidden" / "songs" / "b.mid").write_bytes(b"")
    (tmp_path / "outside").mkdir()
    return Workspace(root)


def test_folders_are_found_by_what_they_hold(workspace):
    assert workspace.music_folders() == ["songs/mine"]  # samples of a run and hidden folders are no songs
    assert workspace.run_folders() == ["runs/one"]
    assert workspace.adapter_folders() == ["runs/one/adapter-best"]
    assert workspace.model_folders() == ["base"]


@pytest.mark.parametrize("text", ["../outside", "/etc", "songs/../../outside", "~", "link"])
def test_a_path_outside_is_refused(workspace, text):
    (workspace.root / "link").symlink_to(workspace.root.parent / "outside")
    with pytest.raises(ConfigError, match="outside the page's folder"):
        workspace.inside(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "choose a folder first"), (None, "choose a folder first"), ("songs/gone", "no such folder; it may have")],
)
def test_a_folder_that_is_gone_or_not_chosen_is_one_line(workspace, text, message):
    with pytest.raises(ConfigError, match=message):
        workspace.inside(text)


@pytest.mark.parametrize("name", ["", " ", "../x", "a/b", ".hidden", "a\\b", "a\0b", "a:b"])
def test_a_name_is_a_name_and_no_path(workspace, name):
    with pytest.raises(ConfigError, match="give the run a name"):
        workspace.new_folder(workspace.runs, name, "run")


def test_a_training_is_named_after_its_songs_and_never_twice(workspace):
    assert suggest_name(workspace, "songs/mine") == "mine-1"
    (workspace.runs / "mine-1").mkdir()
    assert suggest_name(workspace, "songs/mine") == "mine-2"


def test_the_words_of_a_training_are_relative_to_the_page_s_folder(workspace):
    words = training_arguments(workspace, "songs/mine", "bundled", "", "new", (), {})
    assert words == ["--data-dir=songs/mine", "--output-dir=runs/new", "--model=bundled"]
    with pytest.raises(ConfigError, match="choose a base first"):
        training_arguments(workspace, "songs/mine", " ", "", "new", (), {})


@pytest.mark.parametrize(
    ("text", "confined"),
    [
        ("bundled", "bundled"),
        ("owner/name@main", "owner/name@main"),
        ("base", "base"),
        ("./base", "base"),
        ("warm strings, slow", "warm strings, slow"),
        ("x" * 10_000, "x" * 10_000),
        ("a\0b", "a\0b"),
        ("", ""),
    ],
    ids=["bundled", "Hub id", "folder", "dot", "words", "long", "zero", "empty"],
)
def test_a_value_that_names_no_place_stays_as_it_is(workspace, text, confined):
    assert workspace.confine(text) == confined


@pytest.mark.parametrize("option", ["mix_dir", "adapter_dir", "tokenizer", "vae", "style"])
@pytest.mark.parametrize("text", ["/etc/hostname", "../outside", "~/x"])
def test_no_option_of_a_training_leads_out_of_the_page_s_folder(workspace, option, text):
    with pytest.raises(ConfigError, match="outside the page's folder"):
        training_arguments(workspace, "songs/mine", "bundled", "", "new", (), {option: text})
    with pytest.raises(ConfigError, match="outside the page's folder"):
        training_arguments(workspace, "songs/mine", text, "", "new", (), {})
