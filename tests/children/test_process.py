"""Child processes: answers, crashes and time limits, with all that a child has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from musiclora.children import pool
from musiclora.children.pool import ask_twice
from musiclora.children.process import Child, ChildLost, kill_group
from musiclora.symbolic.reading.worker import Outcome, read_outcomes

MOST_WAITS = 12_000  # of 10 ms: ends a test that would wait for ever, however slow the machine
HANDLERS = """
import ctypes, os, subprocess, sys, time

def echo(settings):
    def answer(task):
        if task == "crash":
            os.abort()
        if task == "hang":
            program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            with open(settings["pid"], "w") as file:
                file.write(str(program.pid))
            time.sleep(600)
        if task == "hang in C":  # a library that keeps the interpreter's lock
            ctypes.PyDLL(None).system(f"echo $$ > {settings['pid']}; sleep 600".encode())
        if task == "limit":
            import resource
            return [0, resource.getrlimit(resource.RLIMIT_CPU)[0]]
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


def wait_for_pid(folder: Path) -> int:
    """Wait until a handler has started its program; return the program's number."""
    for _ in range(MOST_WAITS):
        if (folder / "pid").exists() and (text := (folder / "pid").read_text().strip()):
            return int(text)
        time.sleep(0.01)
    pytest.fail("the handler has started no program")


def wait_for_end(pid: int) -> None:
    for _ in range(MOST_WAITS):  # the system ends it at its own pace
        if not is_running(pid):
            break
        time.sleep(0.01)
    assert not is_running(pid)


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
            wait_for_pid(tmp_path)
            self.function()

        def cancel(self):
            pass

    child.ask("a", 3600)
    monkeypatch.setattr("musiclora.children.process.threading.Timer", Clock)
    with pytest.raises(ChildLost) as caught:
        child.ask("hang", 1)
    assert caught.value.late
    wait_for_end(int((tmp_path / "pid").read_text()))


def test_a_child_that_was_closed_does_not_start_again(child):
    child.ask("a", 3600)
    child.close()
    with pytest.raises(ChildLost):
        child.ask("b", 3600)
    assert child.process is None
    assert ask_twice(child, "c", 3600) == "crashed the reader"


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_ctrl_c_while_tasks_run_starts_no_further_child(child, tmp_path, monkeypatch):
    started = []
    begin = Child._open_process
    monkeypatch.setattr(Child, "_open_process", lambda *a: started.append(begin(*a)) or started[-1])

    def interrupt(*arguments):
        wait_for_pid(tmp_path)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "_collect_answers", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.run_tasks(["hang"] * 3, child.target, child.settings, 1, 3600)
    assert [process.poll() for process in started] == [-signal.SIGKILL]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread does it, which a parser can keep waiting")
def test_a_parent_that_is_killed_takes_its_children_and_their_programs_with_it(tmp_path):
    (tmp_path / "handlers_of_a_test.py").write_text(HANDLERS)
    code = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from musiclora.children.process import Child\n"
        "child = Child('handlers_of_a_test:echo', {'name': 'x', 'pid': sys.argv[1] + '/pid'}, sys.argv[1])\n"
        "child.ask('a', 3600)\n"
        "print(child.process.pid, flush=True)\n"
        "child.ask('hang in C', 3600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    program = wait_for_pid(tmp_path)
    parent.kill()
    parent.communicate()
    wait_for_end(child)
    wait_for_end(program)


def test_killing_twice_does_no_harm(child):
    child.ask("a", 3600)
    process = child.process
    child.kill()
    child.kill()
    kill_group(process)
    assert process.poll() is not None
    assert child.ask("b", 3600) == ["x", "b"]  # another one is started


@pytest.mark.skipif(os.name != "posix", reason="limits of processor time are POSIX")
def test_a_task_has_a_limit_of_processor_time_that_moves_with_it(child):
    first, second = (child.ask("limit", 3600)[1] for _ in range(2))
    assert 600 <= first <= second < 700


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        5,
        {},
        [None],
        [{}],
        [{**Outcome().message(), "notes": None}],
        [{**Outcome().message(), "tokens": "x"}],
        [{**Outcome().message(), "kept": {"notes": "x"}}],
    ],
)
def test_an_answer_of_a_wrong_type_is_a_crash(answer):
    assert [outcome.error for outcome in read_outcomes(answer)] == ["crashed the reader"]
