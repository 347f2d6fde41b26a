"""Outputs never replace inputs, replace files only with --overwrite, and are not read as input at the next start."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from refusal import refused
from symusic import Score

from musiclora.cli import main
from musiclora.convert.files.temporary import SET_ASIDE, temporary_sibling
from musiclora.music.wav import write_wav
from musiclora.symbolic.dataset.pieces import Piece, PieceSet
from musiclora.symbolic.decoding.request import GeneratedPiece
from musiclora.symbolic.tokens.tokenizers import own_tokenizer

TUNES = Path(__file__).parents[2] / "musiclora" / "bundled" / "tunes"


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def song(tmp_path):
    """A MIDI file that must not be touched."""
    path = tmp_path / "song.mid"
    path.write_bytes(b"my song")
    yield path
    assert path.read_bytes() == b"my song"


def plain(path: Path) -> Path:
    return path


def round_about(path: Path) -> Path:
    return path.parent / "x" / ".." / path.name


def link(path: Path) -> Path:
    other = path.with_name("link.mid")
    other.symlink_to(path)
    return other


def hard_link(path: Path) -> Path:
    other = path.with_name("hard.mid")
    os.link(path, other)
    return other


@pytest.mark.parametrize("spell", [plain, round_about, link, hard_link], ids=lambda f: f.__name__)
@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["", "--overwrite"])
def test_the_prompt_is_no_output(song, spell, overwrite, tmp_path):
    (tmp_path / "x").mkdir()
    found = call("generate", "--model", "bundled", "--prompt", song, "--output", spell(song), *overwrite)
    refused(found, "--output", "is the file of --prompt")


def test_a_link_as_prompt_to_the_output_is_refused_too(song):
    found = call("generate", "--model", "bundled", "--prompt", link(song), "--output", song, "--overwrite")
    refused(found, "--output", "is the file of --prompt")


@pytest.mark.parametrize("option", ["--init-audio", "--style", "--negative-style"])
def test_no_input_of_an_audio_generation_is_an_output(option, tmp_path):
    mine = tmp_path / "mine.wav"
    mine.write_bytes(b"my recording")
    found = call("generate", "--model", "bundled-audio", option, mine, "--output", mine, "--overwrite")
    refused(found, "--output", f"is the file of {option}")
    assert mine.read_bytes() == b"my recording"


@pytest.mark.parametrize(
    ("existing", "options"),
    [("new.mid", ()), ("new-003.mid", ("--count", 4)), ("new-base.mid", ("--compare",)), ("new.mid", ("--seed", 3))],
    ids=["the file", "a later take", "the base's version", "another seed"],
)
def test_files_that_exist_are_refused_before_anything_is_loaded(existing, options, tmp_path, monkeypatch):
    monkeypatch.setattr("musiclora.symbolic.generate.open_model", lambda *a, **k: pytest.fail("loaded"))
    monkeypatch.setattr("musiclora.symbolic.generate.check_comparison", lambda *a: None)
    (tmp_path / existing).write_bytes(b"first take")
    found = call("generate", "--model", "bundled", "--output", tmp_path / "new.mid", *options)
    refused(found, "exists already", "--overwrite")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first take"]


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["", "--overwrite"])
def test_a_dangling_link_as_output_is_refused_before_anything_is_loaded(overwrite, tmp_path):
    (tmp_path / "new.mid").symlink_to(tmp_path / "gone.mid")
    refused(call("generate", "--model", "bundled", "--output", tmp_path / "new.mid", *overwrite), "leads nowhere")
    assert (tmp_path / "new.mid").is_symlink()


@pytest.fixture
def nothing_is_read(monkeypatch):
    """Fail where songs or recordings are read, or a codec is loaded."""
    for place in (
        "symbolic.reading.augment.read_music",
        "symbolic.preprocess.load_pieces",
        "audio.files.cutting.measure_health",
        "audio.diffrhythm.preprocess.find_model",
        "demo.symbolic.choose",
        "demo.songs.load_pieces",
        "demo.audio.choose",
    ):
        monkeypatch.setattr(f"musiclora.{place}", lambda *a, **k: pytest.fail("read"))


@pytest.mark.parametrize("place", ["a dangling link", "a file", "a filled folder"])
@pytest.mark.parametrize(
    "command",
    ["augment", "cut", "preprocess --model bundled", "preprocess --model bundled-audio", "demo", "demo --family audio"],
)
@pytest.mark.usefixtures("nothing_is_read")
def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_read(command, place, tmp_path):
    out = tmp_path / "out"
    if place == "a dangling link":
        out.symlink_to(tmp_path / "gone")
    elif place == "a file":
        out.touch()
    else:
        out.mkdir()
        (out / "mine.txt").touch()
    (tmp_path / "in").mkdir()
    shutil.copy(sorted(TUNES.glob("*.abc"))[0], tmp_path / "in" / "tune.abc")
    write_wav(tmp_path / "in" / "a.wav", np.zeros((100, 1)), 44100)
    given = {"demo": [], "preprocess": ["--data-dir", tmp_path / "in"]}
    name, *options = command.split()
    inputs = given.get(name, ["--input-dir", tmp_path / "in"])
    found = call(name, *options, *inputs, "--output-dir", out)
    refused(found, "leads nowhere" if place == "a dangling link" else str(out))
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("killed", [False, True], ids=["", "set aside by a killed start"])
def test_preprocess_replaces_an_earlier_token_cache(killed, tmp_path, monkeypatch):
    pieces = PieceSet([Piece("a", "a", np.arange(5, dtype=np.int32), 2)], [])
    monkeypatch.setattr("musiclora.symbolic.preprocess.load_pieces", lambda *a, **k: pieces)
    (tmp_path / "in").mkdir()
    shutil.copy(sorted(TUNES.glob("*.abc"))[0], tmp_path / "in")
    given = ("preprocess", "--data-dir", tmp_path / "in", "--model", "bundled", "--output-dir", tmp_path / "out")
    assert call(*given).exit_code == 0
    if killed:
        aside = temporary_sibling(tmp_path / "out", SET_ASIDE)
        (tmp_path / "out").rename(aside.with_name(aside.name.replace(f"-{os.getpid()}-", "-999999999-")))
    assert call(*given).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("overwrite", [False, True], ids=["", "--overwrite"])
def test_a_file_that_appears_while_a_piece_is_generated_is_not_replaced(overwrite, tmp_path, monkeypatch):
    output = tmp_path / "new.mid"

    def make_beside_another(*given):
        output.write_bytes(b"theirs")
        return [GeneratedPiece(1, Score(480), [], 0, 0, False)]

    base = SimpleNamespace(name="none")
    opened = SimpleNamespace(
        backend="none", base=base, tokenizer=own_tokenizer(), notes=[], adapters=(), programs=frozenset()
    )
    monkeypatch.setattr("musiclora.symbolic.generate.open_model", lambda *a, **k: opened)
    monkeypatch.setattr("musiclora.symbolic.generate.SongGenerator._generate", make_beside_another)
    found = call("generate", "--model", "bundled", "--output", output, *(["--overwrite"] if overwrite else []))
    if not overwrite:
        refused(found, "new.mid exists already")
    assert (output.read_bytes() == b"theirs") != overwrite
    assert list(tmp_path.iterdir()) == [output]


def test_several_files_that_exist_are_counted(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / f"new-{number:03d}.mid").write_bytes(b"x")
    found = call("generate", "--model", "bundled", "--output", tmp_path / "new.mid", "--count", 3)
    refused(found, "new-001.mid (and 2 more) exists already")


def test_render_asks_before_it_replaces_and_never_replaces_its_input(tmp_path):
    tune = shutil.copy(sorted(TUNES.glob("*.abc"))[0], tmp_path / "tune.abc")
    picture = tmp_path / "tune.png"
    picture.write_bytes(b"old")
    refused(call("render", tune, "--output", picture), "exists already", "--overwrite")
    assert picture.read_bytes() == b"old"
    assert call("render", tune, "--output", picture, "--overwrite").exit_code == 0
    assert picture.read_bytes()[1:4] == b"PNG"
    linked = tmp_path / "linked.png"
    linked.symlink_to(tune)
    refused(call("render", tune, "--output", linked, "--overwrite"), "--output", "FILE")


def folder_commands(data: Path, output: Path) -> dict[str, tuple[object, ...]]:
    return {
        "train": ("train", "--model", "bundled", "--data-dir", data, "--output-dir", output),
        "mix": ("train", "--model", "bundled", "--data-dir", TUNES, "--mix-dir", data, "--output-dir", output),
        "pretrain": ("pretrain", "--data-dir", data, "--output-dir", output),
        "preprocess": ("preprocess", "--model", "bundled", "--data-dir", data, "--output-dir", output),
        "augment": ("augment", "--input-dir", data, "--output-dir", output),
        "cut": ("cut", "--input-dir", data, "--output-dir", output),
        "convert model": ("convert", "model", data, output, "--to", "mlx"),
    }


@pytest.mark.parametrize("command", folder_commands(Path(), Path()))
@pytest.mark.parametrize("place", ["inside", "around", "the same", "through a link"])
def test_an_output_folder_lies_beside_the_folders_that_are_read(command, place, tmp_path):
    data = tmp_path / "home" / "music"
    data.mkdir(parents=True)
    shutil.copy(sorted(TUNES.glob("*.abc"))[0], data)
    write_wav(data / "a.wav", np.zeros((4410, 2), np.float32), 44100)
    (data / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "link").symlink_to(data)
    places = {"inside": data / "run", "around": data.parent, "the same": data, "through a link": tmp_path / "link/run"}
    before = sorted(tmp_path.rglob("*"))
    filled = command == "convert model" and place in ("around", "the same")
    found = call(*folder_commands(data, places[place])[command])
    refused(found, "exists already" if filled else "inside one another")
    assert sorted(tmp_path.rglob("*")) == before
