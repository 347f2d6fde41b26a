"""Progress of long jobs: the bar's plain lines, durations, and counted tensors."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from musiclora import progress
from musiclora.progress import Bar, Reporter, format_duration, track_tensors


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (190, "3 min 10 s"), (7500, "2 h 05 min")],
    ids=["zero", "seconds", "rounded up to a minute", "minutes", "hours"],
)
def test_durations_have_two_units_at_most(seconds, text):
    assert format_duration(seconds) == text


def test_without_a_terminal_the_bar_prints_a_line_every_few_seconds(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress, "is_terminal", lambda: False)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with Bar("reading", every_seconds=5) as bar:
        for done, seconds in enumerate((1, 6, 7, 12), 1):
            now[0] = float(seconds)
            bar.update(done, 4, "note" if done == 4 else "")
        bar.print("a line")
    assert capsys.readouterr().err.splitlines() == [
        "reading: 2 of 4, 6 s left",
        "reading: 4 of 4, note, 0 s left",
        "a line",
    ]


def test_tracked_tensors_pass_through_unchanged_and_are_counted_in_millions():
    calls = []

    class Recorder(Reporter):
        @contextmanager
        def task(self, title):
            assert title == "copying, million values"
            yield lambda done, total: calls.append((done, total))

    tensors = [("a", np.zeros((1000, 1000), np.int8)), ("b", np.zeros((2, 1000, 1000), np.int8))]
    with track_tensors(Recorder(), "copying", {name: array.shape for name, array in tensors}) as count:
        assert [(name, id(array)) for name, array in count(tensors)] == [(name, id(array)) for name, array in tensors]
    assert calls == [(1, 3), (3, 3)]


def test_a_plain_line_of_training_tells_one_remaining_time(capsys):
    # The bar's estimate stood beside the loop's: two times that differ in one line.
    with Bar("training", every_seconds=0.0, show_time=False) as bar:
        bar.update(3, 10, "loss 1.234, 42 s left")
    assert capsys.readouterr().err == "training: 3 of 10, loss 1.234, 42 s left\n"
