"""Child processes of the page: each runs one `musiclora` command, as a user would on the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from musiclora.errors import ConfigError

# The child gets the parent's import path, so that a checkout and an installed package are not mixed.
_CHILD_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from musiclora.cli import main; main()"
_LAST_BYTES = 16_384  # of a log that is read for the page
_STOP_SECONDS = 20.0  # a command saves its state when it is interrupted
_POLL_SECONDS = 0.2


def child_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of `musiclora ARGUMENTS` with this process's interpreter and import path."""
    return [sys.executable, "-c", _CHILD_CODE, json.dumps(sys.path), *arguments]


@dataclass
class CommandState:
    """Progress and result of a command that runs.

    Attributes:
        line: last line that it wrote to stderr; on failure, its message.
        seconds: time since it was started.
        code: exit code; None while it runs.
        output: the object that it printed with `--json`; None until it ended with code 0.
    """

    line: str = ""
    seconds: float = 0.0
    code: int | None = None
    output: Any = None

    @property
    def failed(self) -> bool:
        return self.code not in (None, 0)


def run_command(arguments: Sequence[str], folder: Path | None = None) -> Iterator[CommandState]:
    """Run a command with `--json` and yield its state until it has ended.

    Closing the iterator asks the command to end, and kills it where it does not.

    Args:
        arguments: words after `musiclora`; `--json` is added.
        folder: working folder of the command; None is the page's.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        command = [*child_command(arguments), "--json"]
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, cwd=folder)
        try:
            while (code := process.poll()) is None:
                yield CommandState(last_line(Path(err.name)), time.monotonic() - started)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
        finally:
            stop_process(process)
        state = CommandState(error_line(Path(err.name)), time.monotonic() - started, code)
        if code == 0:
            out.seek(0)
            state.output = json.loads(out.read())
        yield state


def finish_command(arguments: Sequence[str], folder: Path | None = None) -> Any:
    """Run a command with `--json` to its end and return the object that it printed.

    Raises:
        ConfigError: the command failed; the message is its last line.
    """
    *_, state = run_command(arguments, folder)
    if state.failed:
        raise ConfigError(state.line or f"musiclora {arguments[0]} ended with exit code {state.code}")
    return state.output


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to save and end, and kill it where it has not ended after some seconds.

    SIGTERM and not SIGINT, which is ignored below a shell's background job.
    """
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start_detached(arguments: Sequence[str], log: Path, folder: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a command that goes on when the page ends; its stderr and stdout are written to a log.

    Args:
        arguments: words after `musiclora`.
        log: file that its lines are written to.
        folder: working folder of the command.
    """
    with _opened_log(log) as handle:
        return subprocess.Popen(
            child_command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            cwd=folder,
            start_new_session=True,  # Ctrl-C in the page's terminal must not stop a training
        )


@contextmanager
def _opened_log(log: Path) -> Iterator[IO[bytes]]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as handle:
        yield handle


def log_lines(log: Path, count: int) -> list[str]:
    """Return the last lines of a log; none where there is no file."""
    try:
        with log.open("rb") as handle:
            handle.seek(0, os.SEEK_END)
            handle.seek(max(0, handle.tell() - _LAST_BYTES))
            text = handle.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()][-count:]


def last_line(log: Path) -> str:
    """Return the last line of a log; empty where there is none."""
    return "".join(log_lines(log, 1))


def error_line(log: Path) -> str:
    """Return the last line of a log without the name of the program."""
    return last_line(log).removeprefix("musiclora: ")
