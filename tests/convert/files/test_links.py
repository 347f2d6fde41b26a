"""Links in model folders: followed within the folder and the Hub's cache, never out of them into an output."""

from __future__ import annotations

from pathlib import Path

import pytest

from musiclora.conversion.verify import companion_files
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.links import copy_folder


def test_a_side_file_that_is_a_link_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "generation_config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ConvertError, match="is a link to a file outside its folder"):
        companion_files(tmp_path / "m")


def test_a_linked_folder_and_a_link_within_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "real.json").write_text("{}")
    (tmp_path / "m" / "tokenizer.json").symlink_to("real.json")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    assert companion_files(tmp_path / "link") == {"tokenizer.json": b"{}"}


def test_a_snapshot_of_the_hub_keeps_its_files_as_links_to_blobs(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--owner--name" / "blobs").mkdir()
    (tmp_path / "models--owner--name" / "blobs" / "1").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to("../../blobs/1")
    assert companion_files(snapshot) == {"tokenizer.json": b"{}"}


def test_a_codec_with_a_link_elsewhere_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "m" / "vae").mkdir(parents=True)
    (tmp_path / "m" / "vae" / "config.json").write_text("{}")
    copy_folder(tmp_path / "m" / "vae", tmp_path / "first", tmp_path / "m")
    assert (tmp_path / "first" / "config.json").read_text() == "{}"
    (tmp_path / "m" / "vae" / "x.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ConvertError, match="is a link"):
        copy_folder(tmp_path / "m" / "vae", tmp_path / "second", tmp_path / "m")
    assert not (tmp_path / "second").exists()
