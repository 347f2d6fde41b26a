"""Recordings of every kind through cut, preprocess, train and generate: used with a note, or one clear line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import toy_audio
from click.testing import CliRunner
from refusal import refused
from require import require

from musiclora.cli import main

soundfile = require("soundfile")
RATE = 44100


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_audio.write_base(tmp_path_factory.mktemp("audio") / "tiny")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def cut(folder, *more):
    return call("cut", "--input-dir", folder, "--output-dir", folder.parent / "cut", *more)


def preprocess(folder, base, backend, *more):
    output = folder.parent / "latents"
    return call(
        "preprocess", "--data-dir", folder, "--output-dir", output, "--model", base, "--backend", backend, *more
    )


def train(folder, base, backend):
    return call(
        "train",
        "--data-dir",
        folder,
        "--output-dir",
        folder.parent / "run",
        "--model",
        base,
        "--backend",
        backend,
        "--max-seq-len",
        24,
        "--max-steps",
        1,
        "--lora-r",
        2,
    )


def generate(path, base, backend, *more):
    return call(
        "generate",
        "--model",
        base,
        "--output",
        path.parent.parent / "made.wav",
        "--backend",
        backend,
        "--seconds",
        1,
        "--steps",
        2,
        *more,
    )


def write(path, kind):
    """A file of one kind."""
    good = toy_audio.tone(2.0, 3)
    if kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "mislabelled":
        path.write_bytes(b"<html>not found</html>" * 50)
    elif kind == "not finite":
        good[5000] = np.nan
        soundfile.write(path, good, RATE, subtype="FLOAT")
    elif kind == "mono 8 kHz":
        soundfile.write(path, toy_audio.tone(2.0, 3, 8000)[:, 0], 8000)
    elif kind == "192 kHz 24 bit":
        soundfile.write(path, toy_audio.tone(2.0, 3, 192_000), 192_000, subtype="PCM_24")
    else:
        changed = {
            "no samples": good[:0],
            "silent": 0 * good,
            "clipped": np.clip(20 * good, -1, 1),
            "one second": good[:RATE],
        }[kind]
        soundfile.write(path, changed, RATE)
    return path


USELESS = ["zero bytes", "no samples", "mislabelled", "not finite", "silent"]
USABLE = ["mono 8 kHz", "192 kHz 24 bit", "clipped", "one second"]


@pytest.mark.parametrize("kind", USELESS)
def test_useless_recordings_alone_are_one_line_for_every_command(folder, base, any_backend, kind):
    write(folder / "bad.wav", kind)
    refused(cut(folder), "bad.wav")
    refused(preprocess(folder, base, any_backend), "bad.wav")
    refused(train(folder, base, any_backend), "bad.wav")
    assert sorted(p.name for p in folder.parent.iterdir() if not p.name.endswith("latents")) == ["in"]


@pytest.mark.parametrize("kind", USELESS)
def test_useless_recordings_among_others_are_left_out_with_a_line(folder, base, any_backend, kind):
    write(folder / "bad.wav", kind)
    toy_audio.write_recordings(folder, 2, 1.5)
    for result in (cut(folder), preprocess(folder, base, any_backend)):
        assert result.exit_code == 0, result.stderr
        assert any("left out" in line and "bad.wav" in line for line in result.stderr.splitlines())


@pytest.mark.parametrize("kind", USABLE)
def test_usable_recordings_of_every_kind_are_cut_and_encoded(folder, base, any_backend, kind):
    write(folder / "odd.wav", kind)
    done = cut(folder, "--json")
    assert len(json.loads(done.stdout)["segments"]) == 1
    found = preprocess(folder, base, any_backend, "--json")
    assert json.loads(found.stdout)["recordings"] == 1
    for result in (done, found):
        assert ("clipped" in result.stderr) == (kind == "clipped")


def test_very_quiet_recordings_are_named_with_what_to_do(folder, base, any_backend):
    # Music at -50 dB was encoded as silence without a word.
    for number in range(2):
        soundfile.write(folder / f"{number}.wav", toy_audio.tone(1.5, number) * 0.02, RATE, subtype="PCM_24")
    for result in (cut(folder), preprocess(folder, base, any_backend), call("doctor", folder)):
        assert result.exit_code == 0, result.stderr
        assert "very quiet, with a peak below -30 dB" in result.output
        assert "musiclora cut --loudness -20 raises it" in result.output
    loud = call("cut", "--input-dir", folder, "--output-dir", folder.parent / "loud", "--loudness", -20)
    assert loud.exit_code == 0
    assert "very quiet" not in preprocess(folder.parent / "loud", base, any_backend).stderr


def test_a_folder_without_recordings_or_no_folder_is_one_line_for_every_command(folder, base, any_backend):
    (folder / "notes.txt").write_text("hello")
    for given, words in ((folder, "holds no recordings"), (folder / "none", "no such")):
        refused(cut(given), words)
        refused(preprocess(given, base, any_backend), words)
        refused(train(given, base, any_backend), words)


@pytest.mark.parametrize("kind", ["zero bytes", "no samples", "mislabelled", "not finite"])
def test_a_useless_recording_to_continue_is_one_line(folder, base, any_backend, kind):
    path = write(folder / "bad.wav", kind)
    refused(generate(path, base, any_backend, "--init-audio", path, "--repaint", 0, 1), "bad.wav")


def test_two_hours_to_continue_are_one_line_and_not_an_hour_of_waiting(folder, base, any_backend):
    path = folder / "long.flac"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(12):
            file.write(np.zeros(8000 * 600, np.float32))
    refused(generate(path, base, any_backend, "--init-audio", path, "--repaint", 0, 1), "long.flac", "120 minutes")


@pytest.mark.parametrize(
    ("values", "words"), [(np.zeros(300), "[300]"), (np.full(512, np.nan), "finite"), (np.zeros((2, 512)), "[2, 512]")]
)
def test_a_style_that_does_not_fit_is_one_line_for_every_command(folder, base, any_backend, values, words):
    toy_audio.write_recordings(folder, 2, 1.5)
    style = folder.parent / "style.npy"
    np.save(style, values.astype(np.float32))
    refused(preprocess(folder, base, any_backend, "--style", style), "style.npy", words)
    refused(generate(folder / "x", base, any_backend, "--style", style), "style.npy", words)
    assert not (folder.parent / "latents").exists()


@pytest.mark.parametrize("words", ["muq", "calm piano"])
def test_words_as_a_style_need_their_encoder_and_one_line_says_so(folder, base, any_backend, words, monkeypatch):
    from musiclora.audio.diffrhythm import style as styles

    monkeypatch.setattr(styles, "find_spec", lambda name: None)
    toy_audio.write_recordings(folder, 1, 1.5)
    refused(preprocess(folder, base, any_backend, "--style", words), "MuQ-MuLan", "muq")
    if words != "muq":
        refused(generate(folder / "x", base, any_backend, "--style", words), "MuQ-MuLan", "muq")


def test_a_style_is_kept_beside_the_latents_and_one_trained_with_the_adapter_is_not(folder, base, any_backend):
    from musiclora.audio.latents.store import read_latents

    toy_audio.write_recordings(folder, 2, 1.5)
    np.save(folder.parent / "style.npy", np.arange(512, dtype=np.float32))
    assert preprocess(folder, base, any_backend, "--style", folder.parent / "style.npy").exit_code == 0
    assert all(arrays["style"][7] == 7 for _, arrays in read_latents(folder.parent / "latents"))
    assert preprocess(folder, base, any_backend, "--style", "adapter").exit_code == 0
    assert all("style" not in arrays for _, arrays in read_latents(folder.parent / "latents"))


def test_latents_of_another_codec_are_one_line(folder, base, any_backend, tmp_path):
    toy_audio.write_recordings(folder, 3, 1.5)
    other = tmp_path / "other"
    toy_audio.write_codec(other, toy_audio.CODEC.__class__(8, (1, 2), (32, 64), latent_dim=6, encoder_latent_dim=12))
    assert preprocess(folder, base, any_backend, "--vae", other).exit_code == 0
    refused(train(folder.parent / "latents", base, any_backend), "another codec")


def test_segments_keep_their_source_so_that_none_is_trained_on_and_held_out(folder, base, any_backend):
    toy_audio.write_recordings(folder, 2, 4.0)
    assert cut(folder, "--seconds", 2).exit_code == 0
    assert preprocess(folder.parent / "cut", base, any_backend).exit_code == 0
    items = json.loads((folder.parent / "latents" / "index.json").read_text())["items"]
    assert [(i["source"], i["start"], i["end"]) for i in items[:2]] == [("tone-0.wav", 0, 2), ("tone-0.wav", 2, 4)]


def test_too_little_disk_for_the_cache_is_one_line_and_what_was_done_is_kept(folder, base, any_backend, monkeypatch):
    toy_audio.write_recordings(folder, 3, 1.5)
    free, real = iter([1 << 40] * 3), shutil.disk_usage  # before all, and before each of two
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=next(free, 1000)))
    refused(preprocess(folder, base, any_backend), "space")
    kept = {p.name: p.stat().st_mtime_ns for p in (folder.parent / "latents").glob("*.safetensors")}
    assert len(kept) == 2
    monkeypatch.undo()
    assert preprocess(folder, base, any_backend).exit_code == 0
    now = {p.name: p.stat().st_mtime_ns for p in (folder.parent / "latents").glob("*.safetensors")}
    assert len(now) == 3
    assert kept.items() <= now.items()


def test_too_little_disk_for_segments_is_one_line_and_no_folder(folder, monkeypatch):
    resource = pytest.importorskip("resource")
    toy_audio.write_recordings(folder, 2, 3.0)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        result = cut(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    refused(result, "cannot write")
    assert [p.name for p in folder.parent.iterdir()] == ["in"]


def test_an_output_folder_with_something_else_in_it_is_left_alone(folder, base, any_backend):
    toy_audio.write_recordings(folder, 1, 1.5)
    (folder.parent / "latents").mkdir()
    (folder.parent / "latents" / "notes.txt").write_text("mine")
    refused(preprocess(folder, base, any_backend), "something else")
    assert [p.name for p in (folder.parent / "latents").iterdir()] == ["notes.txt"]


def test_preprocess_of_the_other_family_refuses_options_of_this_one(folder):
    (folder / "tune.abc").write_text("X:1\nK:C\nCDEF|\n")
    refused(
        call(
            "preprocess",
            "--data-dir",
            folder,
            "--output-dir",
            folder.with_name("o"),
            "--model",
            "bundled",
            "--posterior",
            "mean",
        ),
        "--posterior",
    )
