"""An adapter given as a model or the reverse, and adapters that change nothing, in every command that takes them."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from refusal import refused

from musiclora.cli import main
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.models.gpt2 import read_checkpoint


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory):
    """An adapter as it is before training: A is drawn, B is zero."""
    spec, state = LoraSpec(2, 2.0, 0.0, ("c_attn",)), {}
    for module, (out, inputs) in read_checkpoint(tiny_base).config.linear_shapes().items():
        if module.endswith("c_attn"):
            state[f"{module}.lora_A.weight"] = np.ones((2, inputs), np.float32)
            state[f"{module}.lora_B.weight"] = np.zeros((out, 2), np.float32)
    folder = tmp_path_factory.mktemp("zero") / "untrained"
    write_peft(folder, spec, state, base_model=str(tiny_base))
    return folder


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


COMMANDS = {
    "generate": ("generate", "--output", "x.mid"),
    "evaluate": ("evaluate", "--data-dir", "songs"),
    "train": ("train", "--data-dir", "songs", "--output-dir", "run"),
    "preprocess": ("preprocess", "--data-dir", "songs", "--output-dir", "cache"),
    "doctor": ("doctor",),
    "fuse": ("fuse", "--output-dir", "fused"),
    "convert adapter": ("convert", "adapter"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["adapter", "run"])
def test_an_adapter_given_as_model_is_refused_and_named(adapter, tmp_path, monkeypatch, command, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "songs").mkdir()
    folder = adapter
    if kind == "run":
        folder = tmp_path / "finished"
        (folder / "adapter-best").mkdir(parents=True)
    more = {"fuse": ("--adapter-dir", adapter), "convert adapter": (adapter, "new", "--to", "mlx-lm")}.get(command, ())
    result = run(*COMMANDS[command], *more, "--model", folder)
    refused(result, f"--model {folder}: is an adapter's folder, not a model's", "--adapter-dir where the command takes")


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "--output", "x.mid", "--adapter-dir"),
        ("evaluate", "--data-dir", "songs", "--adapter-dir"),
        ("fuse", "--output-dir", "fused", "--adapter-dir"),
        ("blend",),
        ("convert", "adapter"),
    ],
    ids=lambda command: command[0],
)
def test_a_model_given_as_adapter_is_refused_and_named(tiny_base, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "songs").mkdir()
    more = {"blend": ["new"], "convert": ["new", "--to", "peft"]}.get(command[0], [])
    refused(run(*command, tiny_base, *more), f"{tiny_base}: is a model's folder, not an adapter's")


@pytest.mark.slow
def test_an_adapter_that_changes_nothing_is_said(adapter, tunes, tmp_path):
    commands = (
        ("generate", "--output", tmp_path / "x.mid", "--max-new-tokens", 40, "--adapter-dir", adapter),
        ("evaluate", "--data-dir", next(tunes.glob("*.abc")), "--adapter-dir", adapter),
        ("fuse", "--output-dir", tmp_path / "fused", "--adapter-dir", adapter),
        ("blend", adapter, adapter, tmp_path / "blended"),
        ("convert", "adapter", adapter, tmp_path / "mlx-lm", "--to", "mlx-lm"),
    )
    for command in commands:
        result = run(*command)
        assert result.exit_code == 0, (command, result.stderr)
        assert f"{adapter}: this adapter changes nothing" in result.stderr, command
