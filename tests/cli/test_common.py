"""The command line: messages, exit codes, options that take many values."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import click
import pytest
from click.testing import CliRunner
from refusal import refused

from musiclora.children import interrupts
from musiclora.cli import COMMANDS, main
from musiclora.cli.common import FiniteFloat, ManyCommand, ManyOption, RootGroup, print_json
from musiclora.convert.files.atomic import atomic_folder
from musiclora.errors import DataError


def run(*arguments):
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def raising():
    """A group with one command that raises what it is told to."""

    def make(error):
        group = RootGroup("root")

        @group.command()
        def fail():
            raise error

        return CliRunner().invoke(group, ["fail"]), CliRunner().invoke(group, ["fail", "--debug"])

    return make


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("folder: no songs;\nadd some"), 2, "musiclora: folder: no songs; add some\n"),
        (OSError(28, "No space left on device", "/x/y"), 2, "musiclora: /x/y: No space left on device\n"),
        (KeyboardInterrupt(), 130, "musiclora: stopped\n"),
        (EOFError("the file ends"), 1, "internal failure: EOFError: the file ends"),
        (ZeroDivisionError("by zero"), 1, "internal failure: ZeroDivisionError: by zero"),
    ],
    ids=["bad input", "disk full", "Ctrl-C", "end of a file", "our fault"],
)
def test_an_error_becomes_one_line_and_an_exit_code(raising, error, code, text):
    plain, debug = raising(error)
    assert plain.exit_code == debug.exit_code == code
    assert text in plain.stderr
    assert plain.stderr.strip().count("\n") == 0  # click ends the line that ^C stands on
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signals")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_termination_signal_cleans_up_like_ctrl_c_and_has_its_own_code(name, code, tmp_path):
    group = RootGroup("root")

    @group.command()
    def write():
        with atomic_folder(tmp_path / "new" / "out") as folder:
            (folder / "file").write_text("x")
            try:
                os.kill(os.getpid(), getattr(signal, name))
            finally:  # a terminal that closes sends its signal twice
                os.kill(os.getpid(), getattr(signal, name))
                cleaned.append(True)

    cleaned = []
    before = signal.getsignal(getattr(signal, name))
    result = CliRunner().invoke(group, ["write"])
    assert (result.exit_code, result.stderr.strip()) == (code, f"musiclora: stopped by {name}")
    assert cleaned
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(getattr(signal, name)) is before


def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored():
    number = interrupts.TERMINATIONS[-1]
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interrupts.terminations_raise(), interrupts.handled_signals(lambda number, frame: None, ctrl_c=True):
            assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_a_terminal_that_hangs_up_ends_a_command_with_its_own_code(tmp_path):
    import pty

    code = (
        "import fcntl, pathlib, signal, sys, termios\n"
        "from musiclora.cli.common import RootGroup, note\n"
        "from musiclora.convert.files.atomic import atomic_folder\n"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "group = RootGroup('root')\n"
        "@group.command()\n"
        "def write():\n"
        "    with atomic_folder(pathlib.Path(sys.argv[1])):\n"
        "        note('ready')\n"
        "        try:\n"
        "            signal.pause()\n"
        "        finally:\n"
        "            note('cleaning up')\n"
        "group.main(['write'])\n"
    )
    terminal, end = pty.openpty()
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    child = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, start_new_session=True)
    os.close(end)
    while b"ready" not in os.read(terminal, 1000):
        pass
    os.close(terminal)
    assert child.wait(30) == 129
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["generate", "--output", "x.wav", "--repaint", "{}", "2"], "--repaint"),
        (["generate", "--output", "x.wav", "--repaint", "1", "{}"], "--repaint"),
        (["generate", "--output", "x.wav", "--temperature={}"], "--temperature"),
        (["cut", "--input-dir", "a", "--output-dir", "b", "--fade={}"], "--fade"),
        (["train", "--data-dir", "a", "--output-dir", "b", "--lr={}"], "--lr"),
        (["augment", "--input-dir", "a", "--output-dir", "b", "--tempo={}"], "--tempo"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numbers_that_are_not_finite_are_refused_by_option(arguments, option, number):
    result = run(*(text.format(number) for text in arguments))
    refused(result, option, "finite")


def test_no_number_of_any_command_may_be_infinite():
    kinds = [
        kind
        for name in COMMANDS
        for command in (main.get_command(None, name),)
        for each in (command, *getattr(command, "commands", {}).values())
        for param in each.params
        for kind in (param.type.types if isinstance(param.type, click.Tuple) else [param.type])
    ]
    numbers = [kind for kind in kinds if isinstance(kind, click.types.FloatParamType)]
    assert len(numbers) > 15
    assert all(isinstance(kind, FiniteFloat) for kind in numbers)


@pytest.mark.parametrize("arguments", [["train", "--no-such"], ["nothing"], ["generate"]], ids=str)
def test_wrong_usage_is_one_line_and_code_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert len(result.stdout) > 200


def test_help_and_version_go_to_stdout():
    assert "generate" in run("--help").stdout
    assert run("--version").stdout.startswith("musiclora, version ")
    assert run().exit_code == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--transpose -2 -1 1 2 --name x", ([-2, -1, 1, 2], "x")),
        ("--name x --transpose 5", ([5], "x")),
        ("--transpose=-3 --transpose 4 --name -", ([-3, 4], "-")),
        ("--transpose=-3 -1 4 --name z", ([-3, -1, 4], "z")),
        ("", ([], None)),
    ],
    ids=["negative numbers", "last", "repeated", "equals sign", "absent"],
)
def test_an_option_takes_all_values_up_to_the_next(line, expected):
    seen = []

    @click.command(cls=ManyCommand)
    @click.option("--transpose", cls=ManyOption, type=int)
    @click.option("--name")
    def command(transpose, name):
        seen.append((list(transpose), name))

    result = CliRunner().invoke(command, line.split())
    assert result.exit_code == 0, result.output
    assert seen == [expected]


def test_json_never_holds_what_json_has_not(capsys, tmp_path):
    print_json({"a": float("nan"), "b": [float("inf"), 1.5], "p": tmp_path})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "p": str(tmp_path)}


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_a_missing_backend_is_named_with_the_command_that_installs_it(backend, monkeypatch, tmp_path):
    from musiclora.backends import registry

    monkeypatch.setattr(registry, "probe", lambda name: {"error": "not installed"})
    absent = {name: replace(spec, modules=("no_such_module",)) for name, spec in registry.BACKENDS.items()}
    monkeypatch.setattr(registry, "BACKENDS", absent)
    result = run("evaluate", "--data-dir", str(tmp_path), "--model", str(tmp_path), "--backend", backend)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


def test_the_module_runs_as_the_command_does(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "musiclora", "--version"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.startswith("musiclora, version ")


def test_doctor_warns_where_the_processor_build_has_no_fast_blas(monkeypatch):
    from musiclora import doctor

    monkeypatch.setattr(doctor.platform, "system", lambda: "Linux")
    facts = {"device": "cpu", "name": "x86_64", "mlx": "0.32.4", "blas": None, "blas_reason": "MUSICLORA_BLAS=off"}
    assert "warning: without a fast BLAS" in doctor.backend_line("mlx", facts)
    assert "warning" not in doctor.backend_line("mlx", {**facts, "blas": "openblas", "blas_reason": None})
    assert "warning" not in doctor.backend_line("torch", {"device": "cpu", "name": "x86_64", "torch": "2.13.0"})


def test_the_training_bar_is_taken_away_before_another_task_shows_its_own(monkeypatch):
    from types import SimpleNamespace

    from musiclora.cli import console as reporting

    shown = []

    class Bar(reporting.Bar):
        def __enter__(self):
            shown.append(self.title)
            return self

        def __exit__(self, *error):
            shown.append(f"end of {self.title}")

    monkeypatch.setattr(reporting, "Bar", Bar)
    with reporting.console() as out:
        progress = SimpleNamespace(step=1)
        out.step(SimpleNamespace(loss=1.0, speed=2.0, unit="tokens", seconds_left=3.0, progress=progress, steps=4))
        with out.task("scoring") as update:
            update(1, 2)
    assert shown == ["training", "end of training", "scoring", "end of scoring"]


def test_the_help_shows_its_examples_line_by_line():
    text = run("--help").output
    assert "\\b" not in text
    assert any(line.strip().startswith("musiclora train --data-dir") for line in text.splitlines())
