"""Progress of long jobs: the reporter interface, a progress bar, and a counter for streamed tensors."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from musiclora.convert.errors import printable

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress, TaskID

    from musiclora.convert.files.safetensors_file import Tensors

OnProgress = Callable[[int, int], None]  # called with (units done, units in total)

_VALUES_PER_UNIT = 1_000_000  # tensors are counted in millions of values


class Reporter:
    """Progress reporter that shows nothing; the command line and programs override its methods."""

    def say(self, text: str) -> None:
        """Show one line."""

    @contextmanager
    def task(self, title: str) -> Iterator[OnProgress]:
        """Yield update(done, total) for one long task."""
        yield lambda done, total: None

    def step(self, note: Any) -> None:
        """Show a training step (musiclora.training.loop.StepNote)."""


class Bar:
    """Progress bar on a terminal, and a plain line every few seconds elsewhere, on stderr."""

    def __init__(self, title: str, every_seconds: float = 5.0, show_time: bool = True) -> None:
        """Set up a bar that is not shown yet.

        Args:
            title: shown before the bar.
            every_seconds: least time between two plain lines.
            show_time: estimate the time left; False where the notes of `update` tell it.
        """
        self.title, self.every_seconds, self.show_time = title, every_seconds, show_time
        self._started = self._printed = time.monotonic()
        self._live: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Bar:
        if is_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
            columns += [TimeRemainingColumn()] if self.show_time else []
            display = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
            display.start()
            self._live = display, display.add_task(self.title, total=None, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live[0].stop()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show done of total units and a short note; may be called at any rate."""
        if self._live is not None:
            display, task = self._live
            display.update(task, completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if now - self._printed >= self.every_seconds and done:
            self._printed = now
            left = f"{format_duration((now - self._started) / done * (total - done))} left" if self.show_time else ""
            print_line(", ".join(part for part in (f"{self.title}: {done} of {total}", note, left) if part))

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        if self._live is not None:
            self._live[0].console.print(printable(text), highlight=False, markup=False)
        else:
            print_line(text)


def is_terminal() -> bool:
    """Return True where stderr is a terminal that a bar can be drawn on."""
    return sys.stderr.isatty()


def print_line(text: str) -> None:
    """Print one line on stderr."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def format_duration(seconds: float) -> str:
    """Format seconds as `42 s`, `3 min 10 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def track_tensors(
    out: Reporter, what: str, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Callable[[Tensors], Tensors]]:
    """Yield a function that passes tensors through and reports how many million values have gone by.

    Args:
        out: reporter that shows it.
        what: title of the task.
        shapes: shapes of all tensors that will come.
    """
    total = sum(math.prod(shape) for shape in shapes.values())
    with out.task(f"{what}, million values") as update:
        done = 0

        def count_values(tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
            nonlocal done  # the files of one folder may be streamed one after the other
            for name, array in tensors:
                yield name, array
                done += array.size
                update(round(done / _VALUES_PER_UNIT), max(1, round(total / _VALUES_PER_UNIT)))

        yield count_values
