"""Prompts and recordings that a piece begins from."""

from __future__ import annotations

import pytest
from require import require

from musiclora.errors import ConfigError
from musiclora.formats import MUSIC_SUFFIXES, RECORDING_SUFFIXES
from musiclora.ui.make_given import keep_file, list_music, recording_seconds, span_bar
from musiclora.ui.make_inputs import read_adapters
from musiclora.ui.workspace import Workspace


def test_a_dropped_file_is_kept_under_a_name_that_is_free(tmp_path):
    workspace = Workspace(tmp_path / "page")
    first, other = tmp_path / "a.mid", tmp_path / "other" / "a.mid"
    other.parent.mkdir()
    first.write_bytes(b"one")
    other.write_bytes(b"two")
    assert keep_file(workspace, first, MUSIC_SUFFIXES) == "given/a.mid"
    assert keep_file(workspace, first, MUSIC_SUFFIXES) == "given/a.mid"  # the same file
    assert keep_file(workspace, other, MUSIC_SUFFIXES) == "given/a-2.mid"
    assert (workspace.root / "given" / "a.mid").read_bytes() == b"one"
    assert (workspace.root / "given" / "a-2.mid").read_bytes() == b"two"
    assert list_music(workspace, MUSIC_SUFFIXES) == ["given/a-2.mid", "given/a.mid"]
    assert list_music(workspace, RECORDING_SUFFIXES) == []
    with pytest.raises(ConfigError, match=r"a\.mid: expected a file that ends in"):
        keep_file(workspace, first, RECORDING_SUFFIXES)


def test_the_length_of_a_recording(tmp_path):
    soundfile = require("soundfile")
    path = tmp_path / "a.wav"
    soundfile.write(path, [[0.0, 0.0]] * 22_050, 44_100)
    assert recording_seconds(path) == pytest.approx(0.5)
    path.write_bytes(b"no sound")
    with pytest.raises(ConfigError, match=r"a\.wav: cannot be read"):
        recording_seconds(path)


def test_a_span_is_marked_in_its_place():
    assert "left:25.00%;width:50.00%" in span_bar(2.0, 6.0, 8.0)
    assert "2.0 to 6.0 s of 8.0 s are generated again" in span_bar(2.0, 6.0, 8.0)
    assert "the end must lie behind the start" in span_bar(6.0, 2.0, 8.0)


def test_each_adapter_has_the_strength_beside_it():
    assert read_adapters(["a", "b"], [0.5, 1.25, 1.0]) == [("a", 0.5), ("b", 1.25)]
    assert read_adapters(None, [1.0]) == []
