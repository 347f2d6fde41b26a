"""`musiclora listen make`: the page, its key, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from listening_music import melody, write_folders
from require import require

from musiclora.cli import main
from musiclora.evaluation.listening.loudness import integrated_loudness
from musiclora.music.wav import write_wav

require("soundfile")
require("soxr")


def run(*arguments: str):
    return CliRunner().invoke(main, ["listen", "make", *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("listen")
    options = write_folders(folder)
    done = run(*options, "--output", str(folder / "test.html"), "--seconds", "2", "--seed", "7", "--json")
    assert done.exit_code == 0, done.output
    (folder / "answer.json").write_text(done.stdout, encoding="utf-8")
    return folder


def data_of(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_make_writes_a_page_and_a_key_that_agree(made):
    data, key = data_of(made / "test.html"), json.loads((made / "test.key.json").read_text(encoding="utf-8"))
    assert data["test"] == key["test"]
    assert {item["id"] for item in data["items"]} == {item["id"] for item in key["items"]}
    assert [item["condition"] for item in key["items"]] == ["base"] * 2 + ["adapted"] * 2 + ["real"] * 2
    assert len(data["references"]) == len(key["references"]) == 1
    rated = {item["file"] for item in key["items"]}
    assert not rated & set(key["references"])


def test_the_answer_names_what_was_made(made):
    answer = json.loads((made / "answer.json").read_text(encoding="utf-8"))
    assert answer["count"] == 2
    assert answer["seconds"] == 2
    assert answer["loudness"] == pytest.approx(-20)
    assert answer["bytes"] == (made / "test.html").stat().st_size


def test_the_page_gives_no_condition_away(made):
    text, data = (made / "test.html").read_text(encoding="utf-8"), data_of(made / "test.html")
    assert "secret-" not in text
    assert "adapted" not in text
    ids = [item["id"] for item in data["items"]]
    assert ids == sorted(ids)
    assert all(re.fullmatch("[0-9a-f]{8}", name) for name in ids)
    sounds = [base64.b64decode(item["audio"].partition(",")[2]) for item in data["items"]]
    assert len(set(map(len, sounds))) == 1
    assert len(set(sounds)) == len(sounds)


def test_all_excerpts_are_heard_at_one_loudness_and_length(made):
    sounds = [item["audio"].partition(",")[2] for item in data_of(made / "test.html")["items"]]
    heard = [require("soundfile").read(io.BytesIO(base64.b64decode(sound))) for sound in sounds]
    assert len({len(audio) for audio, _ in heard}) == 1
    loudness = [integrated_loudness(audio[None], rate) for audio, rate in heard]
    assert max(loudness) - min(loudness) < 0.2  # EBU Tech 3341 allows a meter 0.1 LU either way
    assert loudness[0] == pytest.approx(-20, abs=0.7)  # the encoder of libsndfile lowers all by 0.45 dB
    assert max(np.abs(audio).max() for audio, _ in heard) < 1


def test_the_page_loads_nothing(made):
    text = (made / "test.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(
        r"(?:src|href)=|https?://|url\(|@import", text.partition("<script type")[0].replace("-src", "")
    )


def test_one_seed_gives_one_test(made, tmp_path):
    options = [text for name in ("base", "adapted", "real") for text in (f"--{name}-dir", str(made / name))]
    for name, seed in (("again", "7"), ("other", "8")):
        done = run(*options, "--output", str(tmp_path / f"{name}.html"), "--seconds", "2", "--seed", seed)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "again.html").read_bytes() == (made / "test.html").read_bytes()
    assert data_of(tmp_path / "other.html")["test"] != data_of(made / "test.html")["test"]


def test_pieces_of_one_folder_are_told_apart_by_the_mark_of_compare(made, tmp_path):
    both = tmp_path / "both"
    both.mkdir()
    for i in range(2):
        write_wav(both / f"piece-{i}.wav", melody(i, 3)[:, None], 44100)
        write_wav(both / f"piece-{i}-base.wav", melody(i + 9, 3)[:, None], 44100)
    page = tmp_path / "test.html"
    options = ["--base-dir", str(both), "--adapted-dir", str(both), "--real-dir", str(made / "real")]
    done = run(*options, "--output", str(page), "--seconds", "2")
    assert done.exit_code == 0, done.output
    items = json.loads((tmp_path / "test.key.json").read_text(encoding="utf-8"))["items"]
    assert {(item["condition"], "-base" in item["file"]) for item in items} == {
        ("base", True),
        ("adapted", False),
        ("real", False),
    }


def test_files_that_cannot_be_played_are_left_out_with_a_line(tmp_path):
    options = write_folders(tmp_path, count=1)
    (tmp_path / "base" / "broken.wav").write_bytes(b"RIFF")
    write_wav(tmp_path / "base" / "silent.wav", np.zeros((44100 * 3, 1)), 44100)
    done = run(*options, "--output", str(tmp_path / "test.html"), "--seconds", "2")
    assert done.exit_code == 0, done.output
    assert len(re.findall("^left out .*(?:broken|silent).wav", done.stderr, re.MULTILINE)) == 2


def test_midi_is_rendered(tmp_path):
    require("midirenderer")
    require("pretty_midi")
    songs = sorted((Path(__file__).parents[2] / "musiclora/bundled/tunes").glob("*.abc"))
    options = []
    for number, condition in enumerate(("base", "adapted", "real")):
        folder = tmp_path / condition
        folder.mkdir()
        for song in songs[2 * number : 2 * number + 1 + (condition == "real")]:
            (folder / song.name).write_bytes(song.read_bytes())
        options += [f"--{condition}-dir", str(folder)]
    done = run(*options, "--output", str(tmp_path / "test.html"), "--seconds", "3")
    assert done.exit_code == 0, done.output
    assert len(data_of(tmp_path / "test.html")["items"]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seconds", "1"], "--seconds 1: expected 2 to 60"),
        (["--count", "0"], "--count 0: expected 1 to 40"),
        (["--seed", "-1"], "--seed -1"),
        (["--output", "test.txt"], "ends in .html"),
        (["--real-dir", "missing"], "--real-dir missing: there is no such folder"),
        (["--real-dir", "empty"], "holds no MIDI files and no recordings"),
        (["--real-dir", "single"], "can be played, 2 needed"),
        (["--base-dir", "noise.wav"], "is a file; give a folder"),
        (["--real-dir", "adapted"], "is the folder of --adapted-dir"),
        (["--title", "\udcff"], "--title: expected UTF-8 text"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(change, message, tmp_path, monkeypatch):
    options = write_folders(tmp_path, count=1)
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("single").mkdir()
    write_wav(Path("single/one.wav"), melody(0, 3)[:, None], 44100)
    write_wav(Path("noise.wav"), melody(0, 3)[:, None], 44100)
    before = sorted(tmp_path.rglob("*"))
    done = run(*options, "--output", "test.html", "--seconds", "2", *change)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["test.html", "test.key.json"])
def test_an_output_that_exists_is_kept(name, tmp_path):
    options = [*write_folders(tmp_path, count=1), "--output", str(tmp_path / "test.html"), "--seconds", "2"]
    (tmp_path / name).write_text("mine", encoding="utf-8")
    done = run(*options)
    assert done.exit_code == 2
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"
    assert run(*options, "--overwrite").exit_code == 0
    assert (tmp_path / name).read_text(encoding="utf-8") != "mine"


def test_a_name_that_is_no_text_stands_in_the_key_with_a_question_mark(tmp_path):
    options = write_folders(tmp_path, count=1)
    (song,) = (tmp_path / "base").iterdir()
    try:
        song.rename(song.with_name("song-\udcff.wav"))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    done = run(*options, "--output", str(tmp_path / "test.html"), "--seconds", "2")
    assert done.exit_code == 0, done.output
    items = json.loads((tmp_path / "test.key.json").read_text(encoding="utf-8"))["items"]
    assert [item["file"] for item in items if item["condition"] == "base"] == ["song-?.wav"]


@pytest.mark.parametrize("earlier", [None, b"earlier key"], ids=["new", "overwrite"])
def test_a_page_that_cannot_be_written_leaves_the_key_as_it_was(earlier, tmp_path, monkeypatch):
    from musiclora.errors import OutputError
    from musiclora.jobs import listening

    whole = listening.atomic_write

    def fail_at_page(path, data, **options):
        if path.suffix == ".html":
            raise OutputError("the disk is full")
        whole(path, data, **options)

    options = write_folders(tmp_path, count=1)
    key = tmp_path / "test.key.json"
    if earlier:
        key.write_bytes(earlier)
    monkeypatch.setattr(listening, "atomic_write", fail_at_page)
    done = run(*options, "--output", str(tmp_path / "test.html"), "--seconds", "2", "--overwrite")
    assert done.exit_code == 2
    assert (key.read_bytes() if key.exists() else None) == earlier
