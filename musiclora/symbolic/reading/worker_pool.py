"""Pool of child processes that survives files which crash or hang one of them."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from musiclora.convert.errors import DataError
from musiclora.symbolic.reading.worker import Outcome, ReadTask, WorkerSettings, receive, send

# The child gets the parent's import path: inside a checkout, `-m` would find ./musiclora before the installed package.
_CHILD_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from musiclora.symbolic.reading.worker import serve_tasks; serve_tasks()"
)
_START_SECONDS = 120.0


class _Child:
    """One child process, which `run_task` starts and restarts.

    Attributes:
        settings: settings sent to the process first.
        folder: working folder of the process.
        deadline: monotonic time after which the process is overdue.
        process: the running process, or None.
    """

    def __init__(self, settings: WorkerSettings, folder: str) -> None:
        self.settings = settings
        self.folder = folder
        self.deadline = float("inf")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")}
        self.deadline = time.monotonic() + _START_SECONDS
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD_CODE, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,  # abc2midi may write into its working folder
            env={**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=os.name == "posix",  # a hanging abc2midi is then killed with its parent
        )
        try:
            self._exchange_items(self.settings)
        except (EOFError, OSError) as error:
            self.process.kill()
            code = self.process.wait()
            raise DataError(f"the process that reads music files cannot start (exit code {code})") from error

    def _exchange_items(self, item: object) -> list[Outcome]:
        """Send an object and wait for the answer.

        Raises:
            EOFError: the process has ended.
        """
        if self.process is None or self.process.stdin is None or self.process.stdout is None:
            raise EOFError
        send(self.process.stdin, item)  # type: ignore[arg-type]
        answer: list[Outcome] = receive(self.process.stdout)  # type: ignore[arg-type]
        return answer

    def run_task(self, task: ReadTask, timeout: float) -> list[Outcome]:
        """Run a task; a timeout, or two crashes in succession, become an outcome with an error."""
        return self._try_task(task, timeout) or self._try_task(task, timeout) or [Outcome(error="crashed the reader")]

    def _try_task(self, task: ReadTask, timeout: float) -> list[Outcome] | None:
        """Run a task; return None where the child died, since the system may have killed it for want of memory."""
        if self.process is None:
            self.start()
        began = time.monotonic()
        self.deadline = began + timeout
        try:
            return self._exchange_items(task)
        except (EOFError, OSError):
            late = time.monotonic() - began >= timeout
            self.kill()
            return [Outcome(error=f"took longer than {timeout:g} s")] if late else None
        finally:
            self.deadline = float("inf")

    def kill(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        _kill_group(process)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def kill_overdue(self) -> None:
        """Kill an overdue process; the thread that waits for its answer then cleans up."""
        process = self.process
        if process is not None and time.monotonic() > self.deadline:
            _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and, on POSIX, the programs that it started."""
    with suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def run_tasks(
    tasks: Sequence[ReadTask],
    settings: WorkerSettings,
    workers: int,
    timeout: float,
    on_done: Callable[[int], None] | None = None,
) -> list[list[Outcome]]:
    """Run tasks in child processes.

    Args:
        tasks: tasks in the order of the outcomes.
        settings: settings of the workers.
        workers: number of processes, at least 1.
        timeout: seconds that one task may take.
        on_done: called with the number of tasks done, from the calling thread.

    Raises:
        DataError: a worker cannot start at all.
    """
    with tempfile.TemporaryDirectory(prefix="musiclora-") as folder:
        children = [_Child(settings, folder) for _ in range(max(1, min(workers, len(tasks))))]
        waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, list[Outcome] | DataError]] = queue.SimpleQueue()
        for number in [*range(len(tasks)), *[None] * len(children)]:
            waiting.put(number)

        def serve(child: _Child) -> None:
            while (number := waiting.get()) is not None:
                try:
                    done.put((number, child.run_task(tasks[number], timeout)))
                except DataError as error:
                    done.put((number, error))

        stopped = threading.Event()

        def watch() -> None:
            while not stopped.wait(0.05):
                for child in children:
                    child.kill_overdue()

        threads = [threading.Thread(target=serve, args=(c,), daemon=True) for c in children]
        threads.append(threading.Thread(target=watch, daemon=True))
        for thread in threads:
            thread.start()
        try:
            return _collect_outcomes(len(tasks), done, on_done)
        finally:
            while not waiting.empty():  # after an error or Ctrl-C no further task starts
                with suppress(queue.Empty):
                    waiting.get_nowait()
            for _ in children:
                waiting.put(None)
            stopped.set()
            for child in children:
                child.kill()
            for thread in threads:
                thread.join(timeout=5)


def _collect_outcomes(
    count: int,
    done: queue.SimpleQueue[tuple[int, list[Outcome] | DataError]],
    on_done: Callable[[int], None] | None,
) -> list[list[Outcome]]:
    outcomes: list[list[Outcome]] = [[] for _ in range(count)]
    for finished in range(count):
        number, found = done.get()
        if isinstance(found, DataError):
            raise found
        outcomes[number] = found
        if on_done:
            on_done(finished + 1)
    return outcomes
