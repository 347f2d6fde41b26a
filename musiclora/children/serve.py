"""Main loop of a child process: receives tasks on stdin, answers on stdout, and prints nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from musiclora.children.messages import MessageError, receive, send

MAX_MEMORY_BYTES = 6 * 2**30
MAX_TASK_SECONDS = 600  # of computing; every task has a shorter time limit


def limit_memory(most: int = MAX_MEMORY_BYTES) -> None:
    """Limit the address space of this process on Linux; other systems have no limit that holds."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or hard > most:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def limit_processor_time(seconds: int = MAX_TASK_SECONDS) -> None:
    """Let the system end this process, or a program that it starts, after so much more computing.

    The parent's time limit is shorter, but a parent that was killed enforces none.
    """
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = int(used.ru_utime + used.ru_stime) + seconds
    if hard == resource.RLIM_INFINITY or wanted <= hard:
        resource.setrlimit(resource.RLIMIT_CPU, (wanted, hard))


def end_with_parent(lifeline: int) -> None:
    """End this process, and all that it starts, once its parent is gone, however it went.

    On Linux the kernel does it: a signal to the process group at the end of a pipe that the parent holds open. A thread
    would wait for a parser that holds the interpreter's lock. Elsewhere a thread watches that pipe.

    Args:
        lifeline: descriptor of the pipe's reading end; -1 for none (Windows).
    """
    if lifeline < 0:
        return
    if sys.platform == "linux" and _ask_kernel(lifeline):
        return

    def watch() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _ask_kernel(lifeline: int) -> bool:
    """Have the kernel signal the process group when the parent closes the pipe; False where it cannot."""
    import fcntl

    try:
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    except OSError:  # some sandboxes lack it
        return False
    with suppress(BlockingIOError):  # which means that the parent lives
        if not os.read(lifeline, 1):
            os.killpg(0, signal.SIGKILL)
    return True


def serve(target: str, lifeline: int = -1) -> None:
    """Receive settings, build the handler from them, then answer tasks until stdin ends.

    Args:
        target: `module:function`; the function takes the settings and returns a function from task to answer.
        lifeline: see `end_with_parent`.
    """
    end_with_parent(lifeline)
    # Parsers and the programs they run print on descriptors 1 and 2: answers need one of their own.
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    tasks = os.fdopen(os.dup(0), "rb")
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    limit_memory()
    module, _, function = target.partition(":")
    handle: Callable[[Any], object] = getattr(import_module(module), function)(receive(tasks))
    send(answers, "ready")
    while True:
        try:
            task = receive(tasks)
        except MessageError:  # the parent has closed the pipe or has died
            return
        limit_processor_time()
        send(answers, handle(task))
