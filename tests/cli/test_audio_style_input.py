"""Style files and words that are none: one line each."""

from __future__ import annotations

import numpy as np
import pytest
import toy_audio
from audio_commands import commands
from click.testing import CliRunner
from refusal import refused
from require import require

from musiclora.cli import main
from musiclora.convert.files.safetensors_file import write_safetensors


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_audio.write_base(tmp_path_factory.mktemp("audio") / "tiny")


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize("ending", ["safetensors", "npy", "pt"])
def test_a_style_of_the_wrong_width_is_refused(base, any_backend, tmp_path, ending):
    toy_audio.write_recordings(tmp_path / "in", 3, 1.0)
    style = tmp_path / f"style.{ending}"
    values = np.ones(768, np.float32)
    if ending == "safetensors":
        write_safetensors(style, {"style": values})
    elif ending == "npy":
        np.save(style, values)
    else:
        torch = require("torch")
        torch.save(torch.from_numpy(values), style)
    todo = commands(tmp_path / "in", base, tmp_path / "out", any_backend)
    for command in ("preprocess", "train"):
        refused(call(*todo[command], "--style", style), "512", "768")
    refused(
        call("generate", "--model", base, "--output", tmp_path / "new.wav", "--style", style, "--backend", any_backend),
        "512",
        "768",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", ["safetensors", "npy", "pt"])
def test_a_style_file_that_is_none_is_refused(base, any_backend, tmp_path, ending):
    toy_audio.write_recordings(tmp_path / "in", 1, 1.0)
    style = tmp_path / f"style.{ending}"
    todo = [*commands(tmp_path / "in", base, tmp_path / "out", any_backend)["preprocess"], "--style", style]
    refused(call(*todo), style.name, "no such file")
    style.write_bytes(b"hello world " * 10)
    refused(call(*todo), style.name)


@pytest.mark.parametrize("content", ["objects", "words", "archive", "huge"])
def test_a_numpy_file_of_something_else_is_refused_in_our_words(base, any_backend, tmp_path, content):
    toy_audio.write_recordings(tmp_path / "in", 1, 0.2)
    style = tmp_path / "style.npy"
    with style.open("wb") as file:
        if content == "objects":
            np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        elif content == "words":
            np.save(file, np.array(["a"] * 512))
        elif content == "archive":
            np.savez(file, style=np.zeros(512, np.float32))
        else:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**47,)})
    todo = commands(tmp_path / "in", base, tmp_path / "out", any_backend)["preprocess"]
    text = refused(call(*todo, "--style", style), "style.npy", "numbers")
    assert "pickle" not in text
    assert "mmap" not in text


def test_words_as_style_need_their_encoder(base, any_backend, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "muq", None)  # an installed one would fetch gigabytes
    toy_audio.write_recordings(tmp_path / "in", 3, 1.0)
    generate = ["generate", "--model", base, "--output", tmp_path / "new.wav", "--backend", any_backend]
    refused(call(*generate, "--style", "a slow waltz"), "MuQ-MuLan", "a slow waltz")
    todo = commands(tmp_path / "in", base, tmp_path / "out", any_backend)
    refused(call(*todo["preprocess"], "--style", "muq"), "MuQ-MuLan", "--style muq")
    refused(call(*todo["train"], "--style", "a slow waltz"), "MuQ-MuLan")
    assert not (tmp_path / "out").exists()
