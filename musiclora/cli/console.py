"""Progress of a job on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from musiclora.progress import Bar, OnProgress, Reporter, format_duration, print_line


class Console(Reporter):
    """Reporter that draws a bar on a terminal and prints plain lines elsewhere."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def say(self, text: str) -> None:
        """Print one line, above the bar if one is shown."""
        self._bar.print(text) if self._bar else print_line(text)

    @contextmanager
    def task(self, title: str) -> Iterator[OnProgress]:
        """Show a bar for one long task."""
        self.close()  # two live bars would write over one another
        with Bar(title) as bar:
            yield bar.update

    def step(self, note: Any) -> None:
        """Show the loss, the speed and the time left of a training step."""
        if self._bar is None:
            self._bar = Bar("training", show_time=False)  # the notes below tell the time
            self._bar.__enter__()
        text = f"loss {note.loss:.3f}, {note.speed:,.0f} {note.unit}/s, {format_duration(note.seconds_left)} left"
        self._bar.update(note.progress.step, note.steps, text)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None


@contextmanager
def console() -> Iterator[Console]:
    """Yield a console; its bar is closed on return and on error."""
    out = Console()
    try:
        yield out
    finally:
        out.close()
