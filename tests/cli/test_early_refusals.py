"""What cannot be written or made is refused before a model is loaded, in every command that names an output."""

from __future__ import annotations

import pytest
import toy_audio
from click.testing import CliRunner
from refusal import refused
from require import require

from musiclora.cli import main


@pytest.fixture(autouse=True)
def no_backend(monkeypatch):
    """Fail where a backend is asked for: all refusals come before."""

    def loaded(name):
        raise AssertionError("a model was loaded")

    for module in ("musiclora.symbolic.model", "musiclora.audio.model", "musiclora.audio.diffrhythm.preprocess"):
        monkeypatch.setattr(f"{module}.get_backend", loaded)


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-new-tokens", "10000000"], "--max-new-tokens is 10000000; it must be at most 1000000"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0; it must be at least 1"),
        (["--count", "1000000"], "--count is 1000000; it must be at most 10000"),
        (["--top-p", "0"], "--top-p is 0.0; it must be above 0 and at most 1"),
        (["--top-p", "nan"], "'--top-p': 'nan' is not a finite number"),
        (["--top-k", "-1"], "--top-k is -1"),
        (["--temperature", "-1", "--top-k", "-1"], "--temperature is -1.0; it must be 0 (greedy) or more; --top-k is"),
        (["--temperature", "inf"], "'--temperature': 'inf' is not a finite number"),
        (["--prompt", "none.mid"], "--prompt none.mid: there is no such file"),
        (["--prompt", "."], "--prompt .: is a folder; give one file"),
    ],
    ids=str,
)
def test_generate_names_the_option(tiny_base, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    refused(run("generate", "--model", tiny_base, "--output", "x.mid", *options), said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seconds", "9999"], "--seconds is 9999; this model makes"),
        (["--seconds", "0.01"], "--seconds is 0.01; this model makes"),
        (["--steps", "100000000"], "--steps is 100000000; it must be at most"),
        (["--init-audio", "none.wav"], "--init-audio none.wav: there is no such file"),
        (["--negative-style", "none.wav"], "--negative-style none.wav: there is no such file"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_generate_of_recordings_names_the_option(tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    refused(run("generate", "--model", "bundled-audio", "--output", "x.wav", *options), said)


@pytest.mark.parametrize("name", ["x.mid", "x.wav", "x.unknown"])
def test_an_output_inside_a_file_or_of_another_kind_is_refused(tiny_base, tunes, tmp_path, name):
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file" / name
    model = "bundled-audio" if name.endswith("wav") else tiny_base
    words = ("expected a file name that ends in",) if "unknown" in name else ("cannot be written", "another --output")
    refused(run("generate", "--model", model, "--output", output), f"--output {output}", *words)
    if name == "x.wav":
        refused(run("render", next(tunes.glob("*.abc")), "--output", output), f"--output {output}", *words)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--model", "bundled", "--data-dir"),
        ("pretrain", "--data-dir"),
        ("preprocess", "--model", "bundled", "--data-dir"),
        ("preprocess", "--model", "bundled-audio", "--data-dir"),
        ("augment", "--input-dir"),
        ("cut", "--input-dir"),
    ],
    ids=lambda command: " ".join(command[:-1]),
)
@pytest.mark.parametrize(
    ("place", "said"), [("file/out", "cannot be written"), ("file", "is a file"), ("link", "leads nowhere")]
)
def test_an_output_folder_that_cannot_be_made_is_refused_before_music_is_read(tunes, tmp_path, command, place, said):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    data = tunes if command[0] in ("train", "pretrain") else tmp_path / "empty"
    folder = tmp_path / place
    refused(run(*command, data, "--output-dir", folder), f"--output-dir {folder}", said)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("model", ["bundled", "bundled-audio"])
def test_data_that_is_missing_or_empty_is_refused_before_a_model_is_loaded(tmp_path, model):
    (tmp_path / "empty").mkdir()
    for command in (("evaluate",), ("train", "--output-dir", tmp_path / "out"), ("preprocess", "--output-dir", "new")):
        missing = run(*command, "--model", model, "--data-dir", tmp_path / "none")
        refused(missing, f"--data-dir {tmp_path / 'none'}: no such file or folder")
        nothing = "holds no recordings" if model == "bundled-audio" else "no music in this folder"
        refused(run(*command, "--model", model, "--data-dir", tmp_path / "empty"), f"{tmp_path / 'empty'}: {nothing}")
    refused(run("evaluate", "--model", "no/model", "--data-dir", tmp_path / "none"), "--data-dir")


@pytest.mark.parametrize("option", ["--generated-dir", "--reference-dir"])
def test_folders_to_compare_are_named_where_they_are_missing_or_empty(tmp_path, option):
    require("librosa")
    other = "--reference-dir" if option == "--generated-dir" else "--generated-dir"
    sound = toy_audio.write_recordings(tmp_path / "sound", count=1, seconds=0.2)
    (tmp_path / "empty").mkdir()
    for name, said in (("none", "no such folder"), ("empty", "no recordings in this folder")):
        refused(run("evaluate", other, sound, option, tmp_path / name), f"{option} {tmp_path / name}: {said}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "--output", "a.mid", "--model", "~nobody-of-that-name/x"],
        ["generate", "--output", "a.mid", "--model", "bundled", "--adapter-dir", "~nobody-of-that-name/x:0.5"],
        ["generate", "--output", "a.wav", "--model", "bundled-audio", "--vae", "~nobody-of-that-name"],
        ["convert", "adapter", "~nobody-of-that-name/x", "out", "--to", "peft"],
        ["convert", "model", "~nobody-of-that-name/x", "out", "--to", "mlx"],
    ],
    ids=["--model", "--adapter-dir", "--vae", "convert adapter", "convert model"],
)
def test_the_home_of_nobody_is_no_internal_failure(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(run(*arguments), "~nobody-of-that-name", "there is no such file")
