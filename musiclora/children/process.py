"""One child process: started when needed, answered within a time limit, killed with all that it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from musiclora.children.messages import MessageError, receive, send
from musiclora.convert.errors import DataError

# The child gets the parent's import path: inside a checkout, `-m` would find ./musiclora before the installed package.
_CHILD_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from musiclora.children.serve import serve; serve(sys.argv[2], int(sys.argv[3]))"
)
_START_SECONDS = 120.0


class ChildLost(Exception):
    """The child has crashed, or was killed by the system or by its time limit.

    Attributes:
        late: True where it exceeded the time limit.
    """

    def __init__(self, late: bool) -> None:
        super().__init__("it took too long" if late else "it crashed")
        self.late = late


class Child:
    """Child process that answers messages; it is started by the first one, and again after it was lost.

    Attributes:
        target: `module:function` that makes its handler; see `serve.serve`.
        settings: message that it receives first.
        folder: its working folder; None is the parent's.
        process: the running process, or None.

    Where this process ends without a word (kill -9), its children end with it; see `serve.end_with_parent`.
    """

    def __init__(self, target: str, settings: object, folder: str | None = None) -> None:
        self.target = target
        self.settings = settings
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._closed = False

    def ask(self, task: object, time_limit: float) -> Any:
        """Send a task and wait for the answer.

        Raises:
            ChildLost: the process crashed or took longer than `time_limit` seconds; it is gone then. After `close`
                none is started.
            DataError: it cannot start at all.
        """
        if self.process is None:
            self._start()
        return self._exchange(task, time_limit)

    def close(self) -> None:
        """Kill the process; none starts afterwards, also not for a thread that asks already."""
        with self._starting:
            self._closed = True
        self.kill()

    def _start(self) -> None:
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")}
        # a killed parser cannot remove its temporary files
        temporary = {name: self.folder for name in ("TMPDIR", "TEMP", "TMP") if self.folder}
        with self._starting:
            if self._closed:
                raise ChildLost(False)
            process = self.process = self._open_process({**os.environ, **threads, **temporary})
        try:
            self._exchange(self.settings, _START_SECONDS)
        except ChildLost as error:
            raise DataError(f"the process that reads files cannot start (exit code {process.returncode})") from error

    def _open_process(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        ours, theirs = os.pipe()[::-1] if os.name == "posix" else (-1, -1)
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _CHILD_CODE, json.dumps(sys.path), self.target, str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self.folder,
                env={**environment, "TOKENIZERS_PARALLELISM": "false"},
                start_new_session=os.name == "posix",  # programs that it starts are then killed with it
                pass_fds=(theirs,) if theirs >= 0 else (),
            )
        except BaseException:
            _close_all(ours, theirs)
            raise
        _close_all(theirs)
        weakref.finalize(process, _close_all, ours)  # open for as long as the child may run
        return process

    def _exchange(self, message: object, time_limit: float) -> Any:
        process = self.process
        if process is None or process.stdin is None or process.stdout is None:
            raise ChildLost(False)
        with kill_after(process, time_limit) as late:
            try:
                send(process.stdin, message)  # type: ignore[arg-type]
                return receive(process.stdout)  # type: ignore[arg-type]
            except (MessageError, OSError, ValueError) as error:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(1)  # one that ends by itself keeps its exit code
                self.kill()
                raise ChildLost(late.is_set()) from error
            except BaseException:  # Ctrl-C: the answer would be taken for that to the next task
                self.kill()
                raise

    def kill(self) -> None:
        """Kill the process, if it runs, and the programs that it started."""
        process, self.process = self.process, None
        if process is None:
            return
        kill_group(process)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError, ValueError):
                    stream.close()


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def kill_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill a process that is not done within the block's time limit; yields an event that is set when it was."""
    late = threading.Event()

    def kill_late() -> None:
        late.set()
        kill_group(process)

    timer = threading.Timer(seconds, kill_late)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and, on POSIX, the programs that it started."""
    with suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
