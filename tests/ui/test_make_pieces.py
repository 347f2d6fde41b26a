"""Pieces are made whole or not at all, never replace each other, and are found again."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from click.testing import CliRunner

from musiclora.bundled import bundled_songs
from musiclora.cli import get_command, main
from musiclora.cli.option_fields import option_fields
from musiclora.convert.files.atomic import write_json
from musiclora.errors import ConfigError, MusicLoraError
from musiclora.ui import commands
from musiclora.ui.commands import CommandState, finish_command
from musiclora.ui.make_downloads import download_formats, prepare_download
from musiclora.ui.make_form import PieceRequest
from musiclora.ui.make_pieces import RECORD, free_folder, list_pieces, make_piece, read_piece
from musiclora.ui.workspace import Workspace

FIELDS = option_fields(get_command("generate"))
QUICK = {"max_new_tokens": "24", "seed": "5"}


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def made_by_hand(workspace, name, files, when=0):
    folder = workspace.pieces / name
    folder.mkdir(parents=True)
    for file, _ in files:
        (folder / file).write_bytes(b"x")
    records = [{"name": file, "kind": kind, "line": f"line of {file}"} for file, kind in files]
    write_json(folder / RECORD, {"arguments": ["--seed=1"], "files": records, "notes": ["a note"]})
    os.utime(folder / RECORD, (when, when))
    return folder


@pytest.mark.slow
def test_a_piece_is_what_the_command_line_makes(workspace, tiny_base, any_backend, monkeypatch):
    shutil.copytree(tiny_base, workspace.root / "tiny")
    request = PieceRequest(base="tiny", options={**QUICK, "backend": any_backend, "count": "2"})
    *states, piece = make_piece(workspace, FIELDS, request)
    assert states
    assert all(isinstance(state, CommandState) for state in states)
    assert piece == read_piece(workspace, "pieces/tiny-1")
    assert [pair.adapted for pair in piece.pairs] == [None, None]
    monkeypatch.chdir(workspace.root)
    words = [word.replace("tiny-1/", "cli-") for word in piece.arguments]
    assert CliRunner().invoke(main, ["generate", *words]).exit_code == 0
    for number, pair in enumerate(piece.pairs, 1):
        assert pair.base is not None
        assert pair.base.path.read_bytes() == (workspace.pieces / f"cli-tiny-1-00{number}.mid").read_bytes()
        assert " notes" in pair.base.line
    assert list_pieces(workspace) == ["pieces/tiny-1"]


def test_a_command_that_fails_leaves_nothing_and_says_why(workspace):
    request = PieceRequest(base="bundled", options={"temperature": "-3"})
    with pytest.raises(ConfigError, match="temperature"):
        list(make_piece(workspace, FIELDS, request))
    assert list(workspace.root.rglob("*")) == []


def test_cancelling_ends_the_command_and_keeps_nothing(workspace, monkeypatch):
    code = (
        "import os, sys, time, pathlib\n"
        "from musiclora.children.interrupts import terminations_raise\n"
        "out = pathlib.Path(next(w for w in sys.argv if w.startswith('--output=')).partition('=')[2])\n"
        "with terminations_raise():\n"
        "    out.with_suffix('.part').write_text('half')\n"
        "    pathlib.Path('alive').write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
    )
    monkeypatch.setattr(commands, "_CHILD_CODE", f"import json, sys; sys.path[:] = json.loads(sys.argv.pop(1))\n{code}")
    (workspace.root / "pieces").mkdir()
    making = make_piece(workspace, FIELDS, PieceRequest(base="bundled", options=QUICK))
    end = time.monotonic() + 30
    while not (workspace.root / "alive").exists() and time.monotonic() < end:
        next(making)
    process = int((workspace.root / "alive").read_text())
    assert len(list(workspace.pieces.rglob("*.part"))) == 1
    making.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert list(workspace.pieces.iterdir()) == []
    assert list_pieces(workspace) == []


def test_names_never_repeat(tmp_path):
    assert free_folder(tmp_path, "a").name == "a-1"
    (tmp_path / "a-1").mkdir()
    (tmp_path / "a-2").write_text("a file counts too")
    assert free_folder(tmp_path, "a").name == "a-3"


def test_pairs_hold_base_and_adapted_of_one_seed(workspace):
    files = [("a-001.mid", "adapted"), ("a-001-base.mid", "base"), ("a-002.mid", "adapted"), ("a-002-base.mid", "base")]
    folder = made_by_hand(workspace, "a-1", files)
    pairs = read_piece(workspace, "pieces/a-1").pairs
    assert [(p.base.path.name, p.adapted.path.name) for p in pairs] == [
        ("a-001-base.mid", "a-001.mid"),
        ("a-002-base.mid", "a-002.mid"),
    ]
    (folder / "a-001.mid").unlink()  # the others keep their partners
    pairs = read_piece(workspace, "pieces/a-1").pairs
    assert [(p.base.path.name, p.adapted and p.adapted.path.name) for p in pairs] == [
        ("a-001-base.mid", None),
        ("a-002-base.mid", "a-002.mid"),
    ]


def test_earlier_pieces_are_listed_the_latest_first(workspace):
    for when, name in enumerate(["one", "two", "three"], 1):
        made_by_hand(workspace, name, [(f"{name}.mid", "base")], when)
    (workspace.pieces / "no piece").mkdir()
    assert list_pieces(workspace) == ["pieces/three", "pieces/two", "pieces/one"]


def test_a_record_cannot_name_a_file_elsewhere(workspace):
    folder = made_by_hand(workspace, "a", [("a.mid", "base")])
    record = json.loads((folder / RECORD).read_text())
    (workspace.root / "other.mid").write_bytes(b"x")
    record["files"][0]["name"] = "../../other.mid"
    write_json(folder / RECORD, record)
    with pytest.raises(ConfigError, match="its files are gone"):
        read_piece(workspace, "pieces/a")


@pytest.mark.parametrize("text", ["{broken", "[]", "{}", '{"files": [{"name": 3}]}'])
def test_a_damaged_record_is_one_clear_error(workspace, text):
    folder = made_by_hand(workspace, "a", [("a.mid", "base")])
    (folder / RECORD).write_text(text)
    with pytest.raises(MusicLoraError, match=RECORD):
        read_piece(workspace, "pieces/a")


def test_the_formats_are_those_of_render():
    formats = download_formats(option_fields(get_command("render")))
    assert formats == ["MIDI", "WAV", "MusicXML", "ABC"]
    assert download_formats([]) == []


def test_a_midi_file_is_downloaded_byte_for_byte_and_as_sound(workspace, tunes):
    song = workspace.root / "a.mid"
    finish_command(["render", str(next(tunes.glob("*.abc"))), f"--output={song}"])
    cache = workspace.root / "cache"
    copy, remarks = prepare_download(workspace, song, "MIDI", cache)
    assert (copy.name, copy.read_bytes(), list(remarks)) == ("a.mid", song.read_bytes(), [])
    sound, _ = prepare_download(workspace, song, "WAV", cache)
    assert sound.read_bytes()[:4] == b"RIFF"
    again, _ = prepare_download(workspace, song, "MIDI", cache)
    assert again != copy  # nothing that was offered before is replaced


@pytest.mark.parametrize(("name", "begin"), [("MusicXML", b"<?xml"), ("ABC", b"X:1")])
def test_a_melody_is_downloaded_as_a_score(workspace, tunes, name, begin):
    song = workspace.root / "a.mid"
    finish_command(["render", str(next(tunes.glob("*.abc"))), f"--output={song}"])
    score, _ = prepare_download(workspace, song, name, workspace.root / "cache")
    assert score.read_bytes().startswith(begin)


def test_a_score_that_cannot_hold_the_piece_is_a_line(workspace):
    shutil.copy(bundled_songs()[0], workspace.root / "band.mid")  # with drums
    with pytest.raises(ConfigError, match=r"band\.mid: ABC holds no drums"):
        prepare_download(workspace, workspace.root / "band.mid", "ABC", workspace.root / "cache")
    assert list((workspace.root / "cache").rglob("*.abc")) == []


def test_what_cannot_be_written_is_said_in_a_line(workspace):
    recording = workspace.root / "r.wav"
    recording.write_bytes(b"x")
    with pytest.raises(ConfigError, match="is a recording and has no notes to write as MusicXML"):
        prepare_download(workspace, recording, "MusicXML", workspace.root / "cache")
    with pytest.raises(ConfigError, match="choose a format"):
        prepare_download(workspace, recording, None, workspace.root / "cache")
    broken = workspace.root / "b.mid"
    broken.write_bytes(b"no MIDI")
    with pytest.raises(ConfigError, match=r"b\.mid"):
        prepare_download(workspace, broken, "WAV", workspace.root / "cache")
