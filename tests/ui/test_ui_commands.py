"""Child processes of the page: their lines, results, failures, and their end."""

from __future__ import annotations

import json
import os
import time

import pytest

from musiclora.errors import ConfigError
from musiclora.ui import commands
from musiclora.ui.commands import error_line, finish_command, log_lines, run_command


def test_a_command_gives_the_object_it_prints(tmp_path):
    assert set(finish_command(["train", "--list-presets"], tmp_path)) == {"presets"}


def test_a_failure_is_its_last_line_without_the_program_s_name(tmp_path):
    with pytest.raises(ConfigError, match=r"^--data-dir songs: no such file or folder"):
        finish_command(["train", "--data-dir=songs", "--output-dir=run", "--model=bundled"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_closing_the_iterator_ends_the_command_and_lets_it_clean_up(tmp_path, monkeypatch):
    code = (
        "import json, os, sys, time, pathlib\n"
        "from musiclora.children.interrupts import terminations_raise\n"
        "with terminations_raise():\n"
        "    pathlib.Path('alive').write_text(str(os.getpid()))\n"
        "    try: time.sleep(60)\n"
        "    finally: pathlib.Path('alive').rename('cleaned')\n"
    )
    monkeypatch.setattr(commands, "_CHILD_CODE", f"import json, sys; sys.path[:] = json.loads(sys.argv.pop(1))\n{code}")
    states = run_command(["anything"], tmp_path)
    end = time.monotonic() + 30
    while not (tmp_path / "alive").exists() and time.monotonic() < end:
        assert next(states).code is None
    process = int((tmp_path / "alive").read_text())
    states.close()
    assert (tmp_path / "cleaned").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_the_last_lines_of_a_log(tmp_path):
    log = tmp_path / "x.log"
    assert log_lines(log, 3) == []
    log.write_text("one\ntwo\r\nthree\n\nmusiclora: songs: none are here\n")
    assert log_lines(log, 2) == ["three", "musiclora: songs: none are here"]
    assert error_line(log) == "songs: none are here"
    log.write_bytes(b"\xff" * 100_000 + b"\nlast\n")
    assert log_lines(log, 1) == ["last"]


def test_the_child_finds_the_packages_of_its_parent(tmp_path):
    assert json.loads(commands.child_command(["x"])[3])  # the import path
    (tmp_path / "musiclora.py").write_text("raise SystemExit('wrong package')")
    assert "machine" in finish_command(["doctor"], tmp_path)
