"""Signals that end a command: SIGTERM and SIGHUP unwind like Ctrl-C, so that nothing is left half-done."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Windows has no SIGHUP.
TERMINATIONS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_REPEAT_SECONDS = 5.0

Handler = Callable[[int, FrameType | None], None]


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came; whatever cleans up and saves after Ctrl-C does so after it."""

    def __init__(self, number: int) -> None:
        """Keep the signal's number."""
        super().__init__(signal.Signals(number).name)
        self.number = number


def interruption(number: int) -> KeyboardInterrupt:
    """Return the exception that stands for a signal."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


class _Repeats:
    """Memory of the last SIGTERM or SIGHUP, shared by handlers inside one another.

    A terminal that closes sends SIGHUP twice, once by itself and once by its shell. The second one must not break off
    the cleaning up, or the step, that the first one began.
    """

    depth = 0
    latest = float("-inf")

    def is_repeat(self, number: int) -> bool:
        """Return True for a SIGTERM or SIGHUP that follows another one at once."""
        if number == signal.SIGINT:
            return False
        before, self.latest = self.latest, time.monotonic()
        return self.latest - before < _REPEAT_SECONDS


_repeats = _Repeats()


@contextmanager
def handled_signals(handle: Handler, *, ctrl_c: bool) -> Iterator[None]:
    """Call a handler at SIGTERM and SIGHUP, and at Ctrl-C where asked for; outside the main thread do nothing.

    A signal that the process was started to ignore stays ignored (`nohup`). So does a SIGTERM or SIGHUP that follows
    another one within seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle_first(number: int, frame: FrameType | None) -> None:
        if not _repeats.is_repeat(number):
            handle(number, frame)

    wanted = [number for number in TERMINATIONS if signal.getsignal(number) != signal.SIG_IGN]
    if ctrl_c:
        wanted.append(signal.SIGINT)
    if not _repeats.depth:
        _repeats.latest = float("-inf")
    _repeats.depth += 1
    before = {number: signal.signal(number, handle_first) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _repeats.depth -= 1


@contextmanager
def terminations_raise() -> Iterator[None]:
    """Raise Terminated at SIGTERM and SIGHUP; after a SIGHUP a lost terminal is not written to."""
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def handle(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGTERM:
            _silence(terminals)
        raise Terminated(number)

    with handled_signals(handle, ctrl_c=False):
        yield


def _silence(descriptors: list[int]) -> None:
    """Send what is written to a terminal nowhere: writing to one that hung up fails."""
    if descriptors:
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in descriptors:
            os.dup2(null, descriptor)
        os.close(null)
