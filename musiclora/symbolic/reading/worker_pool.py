"""A pool of child processes that outlives any file which crashes or hangs one of them."""

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
from musiclora.symbolic.reading.worker import Outcome, Setting, Task, receive, send

# The child takes its import path from us: beside a checkout, `-m` would find ./musiclora before the installed package.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from musiclora.symbolic.reading.worker import serve_tasks; serve_tasks()"
)
_START_SECONDS = 120.0


class _Worker:
    """One child process; restarted by `answer` after it died."""

    def __init__(self, setting: Setting, folder: str) -> None:
        self.setting = setting
        self.folder = folder
        self.deadline = float("inf")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")}
        self.deadline = time.monotonic() + _START_SECONDS
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,  # abc2midi may write where it stands
            env={**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=os.name == "posix",  # so that a hanging abc2midi dies with its worker
        )
        try:
            self._talk(self.setting)
        except (EOFError, OSError) as error:
            self.process.kill()
            code = self.process.wait()
            raise DataError(f"the process that reads music files cannot start (exit code {code})") from error

    def _talk(self, item: object) -> list[Outcome]:
        if self.process is None or self.process.stdin is None or self.process.stdout is None:
            raise EOFError
        send(self.process.stdin, item)  # type: ignore[arg-type]
        answer: list[Outcome] = receive(self.process.stdout)  # type: ignore[arg-type]
        return answer

    def answer(self, task: Task, timeout: float) -> list[Outcome]:
        """Outcome of a task; a death of the child is an outcome too, if it happens twice or by lateness."""
        return self._attempt(task, timeout) or self._attempt(task, timeout) or [Outcome(error="crashed the reader")]

    def _attempt(self, task: Task, timeout: float) -> list[Outcome] | None:
        """Outcome of a task, or None where the child died; the system may have killed it for a neighbour's sake."""
        if self.process is None:
            self.start()
        began = time.monotonic()
        self.deadline = began + timeout
        try:
            return self._talk(task)
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
        with suppress(ProcessLookupError, PermissionError):
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def expire(self) -> None:
        """End an overdue child; the thread that waits for its answer then cleans up."""
        process = self.process
        if process is not None and time.monotonic() > self.deadline:
            with suppress(ProcessLookupError, PermissionError):
                if os.name == "posix":
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()


def run_all(
    tasks: Sequence[Task],
    setting: Setting,
    workers: int,
    timeout: float,
    on_done: Callable[[int], None] | None = None,
) -> list[list[Outcome]]:
    """Run tasks in child processes.

    Args:
        tasks: what to do; the outcomes come back in this order.
        setting: what the workers know.
        workers: number of processes, at least 1.
        timeout: seconds that one task may take.
        on_done: called with the number of tasks done, from the calling thread.

    Raises:
        DataError: a worker cannot start at all.
    """
    with tempfile.TemporaryDirectory(prefix="musiclora-") as folder:
        children = [_Worker(setting, folder) for _ in range(max(1, min(workers, len(tasks))))]
        waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, list[Outcome] | DataError]] = queue.SimpleQueue()
        for number in [*range(len(tasks)), *[None] * len(children)]:
            waiting.put(number)

        def serve(child: _Worker) -> None:
            while (number := waiting.get()) is not None:
                try:
                    done.put((number, child.answer(tasks[number], timeout)))
                except DataError as error:
                    done.put((number, error))

        stopped = threading.Event()

        def watch() -> None:
            while not stopped.wait(0.05):
                for child in children:
                    child.expire()

        threads = [threading.Thread(target=serve, args=(c,), daemon=True) for c in children]
        threads.append(threading.Thread(target=watch, daemon=True))
        for thread in threads:
            thread.start()
        try:
            return _collect(len(tasks), done, on_done)
        finally:
            while not waiting.empty():  # after an error or Ctrl-C: nothing more is begun
                with suppress(queue.Empty):
                    waiting.get_nowait()
            for _ in children:
                waiting.put(None)
            stopped.set()
            for child in children:
                child.kill()
            for thread in threads:
                thread.join(timeout=5)


def _collect(
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
