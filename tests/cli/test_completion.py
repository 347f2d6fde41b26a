"""Shell completion: commands, options, choices, presets and paths, without a framework or numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from musiclora.cli import COMMANDS, completion


def ask(shell, *words):
    """Run the command as a shell does at Tab; the last word is the incomplete one."""
    line = " ".join(("musiclora", *words))
    environment = {**os.environ, "_MUSICLORA_COMPLETE": f"{shell}_complete", "COMP_WORDS": line}
    environment["COMP_CWORD"] = words[-1] if shell == "fish" else str(len(words))
    code = "from musiclora.cli import main; import sys; sys.argv[0] = 'musiclora'; main(prog_name='musiclora')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_bash_completes_the_commands():
    assert ask("bash", "ge") == ["plain,generate"]
    assert {f"plain,{name}" for name in COMMANDS} == set(ask("bash", ""))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "--pre"), ["plain,--preset"]),
        (("train", "--backend", ""), ["plain,auto", "plain,mlx", "plain,torch"]),
        (("train", "--preset", "co"), ["plain,conservative"]),
        (("pretrain", "--preset", ""), ["plain,tiny", "plain,small", "plain,medium"]),
        (("train", "--data-dir", "so"), ["dir,so"]),
        (("generate", "--adapter-dir", "runs/"), ["dir,runs/"]),
        (("train", "--model", "bundled-"), ["dir,bundled-", "plain,bundled-band", "plain,bundled-audio"]),
        (("generate", "--prompt", "a"), ["file,a"]),
        (("convert", "adapter", "run"), ["file,run"]),
    ],
    ids=["option", "choice", "preset", "size", "folder", "adapter", "model", "file", "subcommand"],
)
def test_bash_completes_the_word(words, expected):
    assert ask("bash", *words) == expected


def test_zsh_shows_the_description_of_a_preset():
    from musiclora.training.config import list_presets

    lines = ask("zsh", "train", "--preset", "art")
    assert lines == ["plain", "artist", list_presets()["artist"]]


def test_fish_completes_the_commands():
    assert [line.split("\t")[0] for line in ask("fish", "pret")] == ["plain,pretrain"]


def test_offered_names_are_the_ones_that_training_knows():
    from musiclora.symbolic.pretrain import BASE_SIZES
    from musiclora.training import config, weighing

    assert completion.PRETRAIN_SIZES == tuple(BASE_SIZES)
    assert completion._describe_presets() == config.list_presets()
    assert completion.WEIGHINGS == weighing.WEIGHINGS


def test_completion_imports_neither_numpy_nor_a_framework():
    code = (
        "import sys, click\n"
        "from musiclora.cli import COMMANDS, completion, main\n"
        "for name in COMMANDS:\n"
        "    completion.add_completion(main.get_command(click.Context(main), name))\n"
        "print(sorted({'numpy', 'torch', 'mlx', 'transformers', 'huggingface_hub', 'gradio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_bash_script_completes_in_a_real_bash():
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = (
        'eval "$(_MUSICLORA_COMPLETE=bash_source musiclora)" || exit 1\n'
        "COMP_WORDS=(musiclora train --preset fl); COMP_CWORD=3\n"
        '_musiclora_completion musiclora fl --preset; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "flavor"
