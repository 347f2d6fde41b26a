"""Messages: printable and short, whatever a file holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from musiclora.cli import main
from musiclora.convert.errors import ConvertError, join_problems, printable, show_value
from musiclora.convert.files.safetensors_file import write_safetensors
from musiclora.convert.models.gpt2 import Gpt2Config


def test_control_characters_and_lone_surrogates_are_escaped():
    assert printable("a\x1b[31mred\x07\r\u202e\ud800\n\té") == "a\\x1b[31mred\\x07\\r\\u202e\\ud800\n\té"


def test_long_words_and_messages_keep_their_beginning_and_end():
    message = str(ConvertError(f"file.pt: {'n' * 1_000_000} is surplus; give another file"))
    assert len(message) < 600
    assert message.startswith("file.pt: nnn")
    assert message.endswith("nnn is surplus; give another file")
    assert len(str(ConvertError("word " * 100_000))) < 4000
    assert len(join_problems(["x" * 10_000] * 9)) < 5 * 500
    assert str(ConvertError()) == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [("8", '"8"'), (8, "8"), (None, "null"), (True, "true"), ("\x1b", '"\\u001b"'), ([1] * 30, "a list of 30 entries")],
)
def test_values_of_files_are_shown_as_they_stand_there(value, shown):
    assert show_value(value) == shown


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "n" * 400, "\u202egpj"], ids=["escape", "long", "direction"])
def test_names_of_tensors_reach_the_terminal_escaped_and_short(name, tmp_path: Path):
    config = Gpt2Config(vocab_size=4, n_positions=4, n_embd=4, n_layer=1, n_head=1, n_inner=16)
    write_safetensors(tmp_path / "model.safetensors", {f"{name}{i}": np.zeros(1, np.float32) for i in range(9)})
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    result = CliRunner().invoke(main, ["convert", "model", str(tmp_path), str(tmp_path / "out"), "--to", "mlx"])
    assert result.exit_code == 2
    assert len(result.stderr) < 3500
    assert result.stderr.rstrip("\n").isprintable()


def test_a_tensors_name_of_a_megabyte_is_refused_in_a_short_message(tmp_path: Path):
    write_safetensors(tmp_path / "m.safetensors", {"n" * 1_000_000: np.zeros(1, np.float32)})
    result = CliRunner().invoke(
        main, ["convert", "model", str(tmp_path / "m.safetensors"), str(tmp_path / "out"), "--to", "mlx"]
    )
    assert result.exit_code == 2
    assert "a tensor's name has 1000000 characters" in result.stderr
    assert len(result.stderr) < 500
