"""Child processes: answers, crashes and time limits, with all that a child has started."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from musiclora.children.process import Child, ChildLost, kill_group
from musiclora.symbolic.reading.worker import Outcome, read_outcomes

HANDLERS = """
import os, subprocess, sys, time

def echo(settings):
    def answer(task):
        if task == "crash":
            os.abort()
        if task == "hang":
            program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            with open(settings["pid"], "w") as file:
                file.write(str(program.pid))
            time.sleep(600)
        print("noise on stdout")
        return [settings["name"], task]
    return answer
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "handlers_of_a_test.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Child("handlers_of_a_test:echo", {"name": "x", "pid": str(tmp_path / "pid")}, str(tmp_path))
    yield made
    made.kill()


def test_a_child_answers_and_starts_again_after_a_crash(child):
    assert child.ask([1, "a"], 3600) == ["x", [1, "a"]]
    with pytest.raises(ChildLost) as caught:
        child.ask("crash", 3600)
    assert not caught.value.late
    assert child.ask("b", 3600) == ["x", "b"]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform == "linux":  # a zombie waits for its reaper, which may be slow or missing in a container
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_a_time_limit_ends_the_programs_that_the_child_started(child, tmp_path, monkeypatch):
    class Clock:
        """Timer that runs out as soon as the program runs."""

        daemon = True

        def __init__(self, seconds, function):
            self.function = function

        def start(self):
            import threading

            threading.Thread(target=self.wait, daemon=True).start()

        def wait(self):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                time.sleep(0.01)
            self.function()

        def cancel(self):
            pass

    child.ask("a", 3600)
    monkeypatch.setattr("musiclora.children.process.threading.Timer", Clock)
    with pytest.raises(ChildLost) as caught:
        child.ask("hang", 1)
    assert caught.value.late
    pid = int((tmp_path / "pid").read_text())
    for _ in range(500):  # the system ends it at its own pace
        if not is_running(pid):
            break
        time.sleep(0.01)
    assert not is_running(pid)


def test_killing_twice_does_no_harm(child):
    child.ask("a", 3600)
    process = child.process
    child.kill()
    child.kill()
    kill_group(process)


@pytest.mark.parametrize(
    "answer",
    [None, [], 5, {}, [None], [{}], [{**Outcome().message(), "notes": None}], [{**Outcome().message(), "tokens": "x"}]],
)
def test_an_answer_of_a_wrong_type_is_a_crash(answer):
    assert [outcome.error for outcome in read_outcomes(answer)] == ["crashed the reader"]
