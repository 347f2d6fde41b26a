"""Main loop of a child process: receives tasks on stdin, answers on stdout, and prints nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from musiclora.children.messages import MessageError, receive, send

MAX_MEMORY_BYTES = 6 * 2**30


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


def serve(target: str) -> None:
    """Receive settings, build the handler from them, then answer tasks until stdin ends.

    Args:
        target: `module:function`; the function takes the settings and returns a function from task to answer.
    """
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
        send(answers, handle(task))
