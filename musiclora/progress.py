"""Shows how far a stream of tensors is."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np

Tensors = Iterable[tuple[str, np.ndarray]]
_UNIT = 1_000_000  # values; what is shown is counted in millions


@contextmanager
def track_tensors(
    out: Reporter, what: str, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Callable[[Tensors], Tensors]]:
    """Yield a function that passes tensors through and shows how many million values have gone by.

    Args:
        out: where it is shown.
        what: the task's name.
        shapes: of all tensors that will come.
    """
    total = sum(math.prod(shape) for shape in shapes.values())
    with out.task(f"{what}, million values") as update:

        def watch(tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
            done = 0
            for name, array in tensors:
                yield name, array
                done += array.size
                update(round(done / _UNIT), max(1, round(total / _UNIT)))

        yield watch


class Reporter:
    """Where a job says what it does; the command line shows it, tests and programs may ignore it."""

    def say(self, text: str) -> None:
        """One line."""

    @contextlib.contextmanager
    def task(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Yield update(done, total) for one long task."""
        yield lambda done, total: None

    def step(self, note: Any) -> None:
        """A training step (musiclora.training.loop.StepNote)."""


def is_terminal() -> bool:
    """Whether stderr is a terminal that a bar can be drawn on."""
    return sys.stderr.isatty()


def print_line(text: str) -> None:
    """Print one line on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def format_duration(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 10 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Bar:
    """Shows how far a long task is; update(done, total, note) may be called as often as one likes."""

    def __init__(self, title: str, every_seconds: float = 5.0) -> None:
        self.title, self.every = title, every_seconds
        self._started = self._said = time.monotonic()
        self._rich: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if is_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._rich = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
            self._rich.start()
            self._task = self._rich.add_task(self.title, total=None, note="")
        return self

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show done of total units, and a few words beside it."""
        if self._rich is not None:
            self._rich.update(self._task, completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if now - self._said >= self.every and done:
            self._said = now
            left = (now - self._started) / done * (total - done)
            print_line(f"{self.title}: {done} of {total}{', ' + note if note else ''}, {format_duration(left)} left")

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        if self._rich is not None:
            self._rich.console.print(text, highlight=False, markup=False)
        else:
            print_line(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
