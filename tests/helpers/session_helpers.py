"""Helpers of tests that run a training session: a reporter that remembers, and a stop by Ctrl-C."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from musiclora.convert.adapters.peft import read_peft
from musiclora.progress import Reporter


class RememberingReporter(Reporter):
    """Reporter that keeps the lines it is told."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def stop_after(session, steps):
    """Run some steps of a session and stop it by Ctrl-C."""
    seen = []

    def stop(note):
        seen.append(note)
        if len(seen) == steps:
            os.kill(os.getpid(), signal.SIGINT)

    session.out.step = stop
    with pytest.raises(KeyboardInterrupt):
        session.train()


def adapter(path):
    """Read the arrays of a run's last adapter."""
    return read_peft(Path(path) / "adapter-last").state


def equal(first, second):
    return set(first) == set(second) and all(np.array_equal(first[k], second[k]) for k in first)
