"""Pool of child processes that survives tasks which crash or hang one of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from musiclora.children.process import Child, ChildLost
from musiclora.convert.errors import DataError
from musiclora.convert.files.temporary import scratch_folder


def run_tasks(
    tasks: Sequence[object],
    target: str,
    settings: object,
    workers: int,
    time_limit: float,
    on_done: Callable[[int], None] | None = None,
) -> list[Any]:
    """Run tasks in child processes.

    Args:
        tasks: messages in the order of the answers.
        target: `module:function` that makes a worker's handler; see `serve.serve`.
        settings: message that each worker receives first.
        workers: number of processes, at least 1.
        time_limit: seconds that one task may take.
        on_done: called with the number of tasks done, from the calling thread.

    Returns:
        The answer to each task, or a string with the reason why there is none.

    Raises:
        DataError: a worker cannot start at all.
    """
    if not tasks:
        return []
    # programs that a worker starts may write into its working folder
    with scratch_folder() as folder:
        children = [Child(target, settings, str(folder)) for _ in range(max(1, min(workers, len(tasks))))]
        waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        for number in [*range(len(tasks)), *[None] * len(children)]:
            waiting.put(number)

        def serve(child: Child) -> None:
            while (number := waiting.get()) is not None:
                try:
                    done.put((number, ask_twice(child, tasks[number], time_limit)))
                except DataError as error:
                    done.put((number, error))

        threads = [threading.Thread(target=serve, args=(c,), daemon=True) for c in children]
        for thread in threads:
            thread.start()
        try:
            return _collect_answers(len(tasks), done, on_done)
        finally:
            while not waiting.empty():  # after an error or Ctrl-C no further task starts
                with suppress(queue.Empty):
                    waiting.get_nowait()
            for _ in children:
                waiting.put(None)
            for child in children:
                child.close()
            for thread in threads:
                thread.join(timeout=5)


def ask_twice(child: Child, task: object, time_limit: float) -> Any:
    """Ask again after a crash, since the system may have killed the child for want of memory.

    Returns:
        The answer, or a string with the reason why there is none.
    """
    for _ in range(2):
        try:
            return child.ask(task, time_limit)
        except ChildLost as error:
            if error.late:
                return f"took longer than {time_limit:g} s"
    return "crashed the reader"


def _collect_answers(
    count: int, done: queue.SimpleQueue[tuple[int, Any]], on_done: Callable[[int], None] | None
) -> list[Any]:
    answers: list[Any] = [None] * count
    for finished in range(count):
        number, found = done.get()
        if isinstance(found, DataError):
            raise found
        answers[number] = found
        if on_done:
            on_done(finished + 1)
    return answers
