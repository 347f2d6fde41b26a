"""`generate --watch`: dropped files are continued one after the other by a model that is loaded once."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner
from refusal import refused
from symusic import Score

from musiclora.bundled import bundled_tunes
from musiclora.cli import main
from musiclora.errors import ConfigError
from musiclora.jobs import generate, watch
from musiclora.symbolic import model as opened_models
from musiclora.symbolic.watch import dropped_files, free_names


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "drop").mkdir()
    return tmp_path / "drop", tmp_path / "out"


class Session:
    """A watch in a thread, and what it says."""

    def __init__(self, folders, tiny_base, **options):
        self.said, self.error, self._on = [], None, True
        self._thread = threading.Thread(target=self._run, args=(folders, tiny_base, options))
        self._thread.start()
        self.wait_for(f"watching {folders[0]}")

    def _run(self, folders, tiny_base, options):
        from musiclora.symbolic import watch as module

        try:
            spec_options = {"max_new_tokens": 40, "seed": 3, **options}
            model = spec_options.pop("model", str(tiny_base))
            module.watch_from_options(
                *folders, spec_options, self.said.append, lambda: self._on, model=model, backend="torch"
            )
        except Exception as error:
            self.error = error

    def wait_for(self, text):
        end = time.monotonic() + 60
        while not any(text in line for line in self.said):
            assert self._thread.is_alive(), self.error
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    def close(self):
        self._on = False
        self._thread.join(60)
        assert self.error is None


@pytest.fixture
def tune(tmp_path, tiny_base):
    """A MIDI file, and the file that `generate --prompt` makes of it."""
    score = Score(bundled_tunes()[0])
    score.dump_midi(tmp_path / "tune.mid")
    return tmp_path / "tune.mid"


def test_a_dropped_file_is_continued_as_generate_does_and_the_model_is_loaded_once(
    folders, tiny_base, tune, tmp_path, monkeypatch
):
    loads = []
    load = opened_models.open_model
    monkeypatch.setattr("musiclora.symbolic.watch.open_model", lambda *a, **k: (loads.append(1), load(*a, **k))[1])
    drop, out = folders
    shutil.copy(tune, drop / "there.mid")
    session = Session(folders, tiny_base, prompt_bars=4)
    assert "1 files that are there already are left alone" in session.said[-1]
    shutil.copy(tune, drop / "riff.mid")
    session.wait_for("riff.mid: continued in")
    (drop / "broken.mid").write_bytes(b"MThd nothing")
    session.wait_for("broken.mid: ")
    shutil.copy(tune, drop / "riff.mid.tmp")
    (drop / "riff.mid.tmp").rename(drop / "riff.mid")  # saved again by the other program
    end = time.monotonic() + 60
    while not (out / "riff-002.mid").exists():
        assert time.monotonic() < end, session.said
        time.sleep(0.02)
    session.close()
    generate(
        tmp_path / "alone.mid", str(tiny_base), backend="torch", prompt=tune, prompt_bars=4, max_new_tokens=40, seed=3
    )
    assert (out / "riff-001.mid").read_bytes() == (tmp_path / "alone.mid").read_bytes()
    assert (out / "riff-002.mid").read_bytes() == (tmp_path / "alone.mid").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["riff-001.mid", "riff-002.mid"]
    assert loads == [1]


def test_a_file_is_taken_when_it_is_written_to_the_end(tmp_path):
    looks = iter(range(8))
    growing = tmp_path / "a.mid"

    def goes_on():
        look = next(looks, None)
        if look is not None and 1 <= look <= 4:
            with growing.open("ab") as handle:  # grows over four looks
                handle.write(b"x")
        if look == 2:
            (tmp_path / "empty.mid").touch()
            (tmp_path / "notes.txt").write_text("no music")
            (tmp_path / ".hidden.mid").write_text("x")
        return look is not None

    assert list(dropped_files(tmp_path, {}, goes_on)) == [growing]
    assert growing.stat().st_size == 4


def test_names_follow_the_last_one_that_is_taken(tmp_path):
    for name in ("a-001.mid", "a-007-base.mid", "ab-010.mid", "a-x.mid"):
        (tmp_path / name).touch()
    assert [path.name for path in free_names(tmp_path, "a", 2)] == ["a-008.mid", "a-009.mid"]


def test_a_folder_that_goes_away_ends_the_watch_in_one_line(tmp_path):
    folder = tmp_path / "drop"
    folder.mkdir()

    def goes_on():
        if folder.exists():
            folder.rmdir()
        return True

    with pytest.raises(ConfigError, match="the folder is gone"):
        list(dropped_files(folder, {}, goes_on))


def test_a_model_of_recordings_cannot_watch(folders):
    with pytest.raises(ConfigError, match="--watch: DiffRhythm continues no MIDI files"):
        watch(*folders, "bundled-audio", say=print)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing option '--output'"),
        (["--watch=drop"], "belong together"),
        (["--output-dir=out"], "belong together"),
        (["--watch=drop", "--output-dir=out", "--output=x.mid"], "give one of them"),
        (["--watch=drop", "--output-dir=out", "--json"], "--json: does not go with --watch"),
        (["--watch=gone", "--output-dir=out"], "there is no such folder"),
        (["--watch=drop", "--output-dir=drop"], "is the folder of --watch"),
        (["--watch=drop", "--output-dir=file"], "is a file"),
        (["--watch=drop", "--output-dir=out", "--prompt=a.mid"], "the dropped files are what is continued"),
        (["--watch=drop", "--output-dir=out", "--compare"], "no adapter to compare"),
    ],
    ids=["nothing", "no target", "no folder", "both", "json", "gone", "same", "a file", "prompt", "compare"],
)
def test_bad_options_are_one_line(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drop").mkdir()
    (tmp_path / "file").touch()
    refused(CliRunner().invoke(main, ["generate", "--model=bundled", *words]), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_ends_a_watch(folders, tiny_base):
    command = [sys.executable, "-m", "musiclora", "generate", f"--model={tiny_base}", f"--watch={folders[0]}"]
    with subprocess.Popen([*command, f"--output-dir={folders[1]}"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("watching")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert json.dumps([path.name for path in folders[0].iterdir()]) == "[]"
