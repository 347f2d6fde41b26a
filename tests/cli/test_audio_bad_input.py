"""Every kind of bad recording through every command that reads some: one line, exit code 2, nothing half-written."""

from __future__ import annotations

import collections
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy_audio
from audio_commands import commands
from click.testing import CliRunner
from refusal import refused
from require import require

from musiclora.cli import main

soundfile = require("soundfile")
RATE = 44100


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_audio.write_base(tmp_path_factory.mktemp("audio") / "tiny")


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def write(path, audio, rate=RATE, subtype=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


def useless(folder, kind):
    """A file that cannot be used."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bad.wav"
    sound = toy_audio.tone(2, 7)
    if kind == "silent":
        write(path, np.zeros((RATE, 2)))
    elif kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "zero samples":
        write(path, np.zeros((0, 2)))
    elif kind == "text named wav":
        path.write_text("hello world " * 50)
    elif kind == "text named mp3":
        path = folder / "bad.mp3"
        path.write_text("hello world " * 50)
    elif kind == "only a header":
        path.write_bytes(write(folder / "whole.wav", sound).read_bytes()[:44])
        (folder / "whole.wav").unlink()
    elif kind == "NaN":
        sound[len(sound) // 2] = np.nan
        write(path, sound, subtype="FLOAT")
    elif kind == "a folder":
        path.mkdir()
    return path


USELESS = ["silent", "zero bytes", "zero samples", "text named wav", "text named mp3", "only a header", "NaN"]


def odd(folder, kind):
    """A file that is unusual and can be used."""
    path = folder / "odd.wav"
    if kind == "mono":
        write(path, toy_audio.tone(2, 3)[:, 0])
    elif kind == "8 kHz":
        write(path, toy_audio.tone(2, 3, 8000), 8000)
    elif kind == "192 kHz":
        write(path, toy_audio.tone(2, 3, 192_000), 192_000)
    elif kind == "24 bit":
        write(path, toy_audio.tone(2, 3), subtype="PCM_24")
    elif kind == "clipped":
        write(path, np.clip(9 * toy_audio.tone(2, 3), -1, 1))
    elif kind == "truncated":
        write(path, toy_audio.tone(4, 3))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "mp3 named wav":
        write(folder / "odd.mp3", toy_audio.tone(2, 3)).rename(path)
    elif kind == "one second":
        write(path, toy_audio.tone(1, 3))
    return path


ODD = ["mono", "8 kHz", "192 kHz", "24 bit", "clipped", "truncated", "mp3 named wav", "one second"]


COMMANDS = ["cut", "preprocess", "train"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", USELESS)
def test_where_no_recording_can_be_used_that_is_one_line(base, any_backend, tmp_path, kind, command, capfd):
    bad = useless(tmp_path / "in", kind)
    refused(call(*commands(tmp_path / "in", base, tmp_path / "out", any_backend)[command]), bad.name)
    assert not (tmp_path / "out").exists()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", USELESS)
@pytest.mark.slow
def test_beside_good_ones_it_is_left_out_with_a_line(base, any_backend, tmp_path, kind, command):
    toy_audio.write_recordings(tmp_path / "in", 3, 1.0)
    bad = useless(tmp_path / "in", kind)
    result = call(*commands(tmp_path / "in", base, tmp_path / "out", any_backend)[command])
    assert result.exit_code == 0, result.output
    assert any("left out" in line and bad.name in line for line in result.stderr.splitlines())


@pytest.mark.parametrize("command", ["cut", "preprocess"])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_odd_is_used(base, any_backend, tmp_path, kind, command):
    odd(tmp_path / "in", kind) if (tmp_path / "in").mkdir() is None else None
    result = call(*commands(tmp_path / "in", base, tmp_path / "out", any_backend)[command], "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["recordings"] == 1
    assert found["seconds"] == pytest.approx(1 if kind == "one second" else 2, abs=0.1)
    if kind == "clipped":
        assert "clipped" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_without_audio_is_refused(base, any_backend, tmp_path, command):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("hello")
    refused(call(*commands(tmp_path / "in", base, tmp_path / "out", any_backend)[command]), "no recordings")
    refused(call(*commands(tmp_path / "gone", base, tmp_path / "out", any_backend)[command]), "gone")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [kind for kind in USELESS if kind != "silent"])
def test_generate_refuses_to_continue_what_is_no_recording(base, any_backend, tmp_path, kind, capfd):
    bad = useless(tmp_path / "in", kind)
    refused(
        call(
            "generate",
            "--model",
            base,
            "--output",
            tmp_path / "new.wav",
            "--init-audio",
            bad,
            "--backend",
            any_backend,
            "--steps",
            3,
        ),
        bad.name,
    )
    assert not (tmp_path / "new.wav").exists()
    assert capfd.readouterr().err == ""


def test_generate_refuses_to_continue_two_hours(base, any_backend, tmp_path):
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(120):
            file.write(np.zeros(8000 * 60, np.float32))
    refused(
        call(
            "generate",
            "--model",
            base,
            "--output",
            tmp_path / "new.wav",
            "--init-audio",
            path,
            "--backend",
            any_backend,
        ),
        "120 minutes",
        "musiclora cut",
    )


def test_latents_of_another_codec_are_refused(base, any_backend, tmp_path):
    folder = toy_audio.write_latents(tmp_path / "latents", base)
    index = json.loads((folder / "index.json").read_text())
    for item in index["items"]:
        item["codec"] = "f" * 64
    (folder / "index.json").write_text(json.dumps(index))
    refused(call(*commands(folder, base, tmp_path / "out", any_backend)["train"]), "another codec", "--vae")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["preprocess", "train"])
def test_too_little_disk_is_one_line_and_what_was_encoded_is_kept(base, any_backend, tmp_path, monkeypatch, command):
    toy_audio.write_recordings(tmp_path / "in", 2, 1.0)
    todo = commands(tmp_path / "in", base, tmp_path / "out", any_backend)[command]
    cache = tmp_path / "out" / ("latents" if command == "preprocess" else "run-latents")
    first = call(
        "preprocess", "--data-dir", tmp_path / "in", "--output-dir", cache, "--model", base, "--backend", any_backend
    )
    assert first.exit_code == 0, first.output
    before = sorted(p.name for p in cache.iterdir())
    write(tmp_path / "in" / "new.wav", toy_audio.tone(2, 9))
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    refused(call(*todo), str(cache))
    assert sorted(p.name for p in cache.iterdir()) == before


def test_an_output_that_is_a_file_or_holds_something_else_is_refused(base, any_backend, tmp_path):
    toy_audio.write_recordings(tmp_path / "in", 1, 1.0)
    for name, where in (("cut", "cut"), ("preprocess", "latents")):
        todo = commands(tmp_path / "in", base, tmp_path / "out", any_backend)[name]
        target: Path = tmp_path / "out" / where
        target.parent.mkdir(exist_ok=True)
        target.write_text("mine")
        refused(call(*todo), where)
        assert target.read_text() == "mine"
        target.unlink()
        target.mkdir()
        (target / "diary.txt").write_text("mine")
        refused(call(*todo), where)
        assert [p.name for p in target.iterdir()] == ["diary.txt"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seconds", 0], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--overlap", 60], "--overlap"),
        (["--overlap", -1], "--overlap"),
        (["--loudness", 5], "--loudness"),
        (["--fade", -1], "--fade"),
        (["--times", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_options_of_cut_that_make_no_sense_are_named(tmp_path, options, words):
    toy_audio.write_recordings(tmp_path / "in", 1, 1.0)
    refused(call("cut", "--input-dir", tmp_path / "in", "--output-dir", tmp_path / "out", *options), words)
    assert not (tmp_path / "out").exists()
