"""Temporary siblings: whose they are, and when they are removed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from musiclora.convert.errors import OutputError
from musiclora.convert.files import temporary
from musiclora.convert.files.atomic import atomic_file, atomic_folder, atomic_write
from musiclora.convert.files.temporary import SET_ASIDE, TEMPORARY, scratch_folder, temporary_sibling

pytestmark = pytest.mark.skipif(os.name == "nt", reason="on Windows nothing tells whether a process lives")
_END = re.compile(r"-[0-9a-f]{8}\.\w+$")


@pytest.fixture(scope="module")
def dead_process() -> int:
    """Number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def owned_by(path: Path, *, pid: int | None = None, host: str = "", start: int | None = None, kind: str = TEMPORARY):
    """Name a sibling of path as another process would."""
    name = temporary_sibling(path, kind).name
    own_host, own_pid, own_start = name.split(".")[-2].split("-")[:3]
    owner = f"{host or own_host}-{pid or own_pid}-{own_start if start is None else start}"
    return path.with_name(name.replace(f"{own_host}-{own_pid}-{own_start}", owner))


def fill(folder: Path, text: str = "x") -> Path:
    folder.mkdir(parents=True)
    (folder / "file").write_text(text)
    return folder


def write_folder(path: Path) -> None:
    with atomic_folder(path, overwrite=True) as folder:
        (folder / "file").write_text("new")


def write_single(path: Path) -> None:
    with atomic_file(path) as file:
        file.write_text("new")


WRITERS = [write_folder, write_single, lambda path: atomic_write(path, "new")]


@pytest.mark.parametrize("write", WRITERS, ids=["folder", "file", "bytes"])
def test_a_start_removes_what_a_dead_process_left_beside_its_output(write, dead_process, tmp_path):
    fill(owned_by(tmp_path / "out", pid=dead_process))
    owned_by(tmp_path / "other.mid", pid=dead_process).write_text("x")
    write(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("write", WRITERS, ids=["folder", "file", "bytes"])
def test_what_a_live_process_or_another_host_writes_stays(write, dead_process, tmp_path):
    kept = [
        fill(owned_by(tmp_path / "out")),  # this process
        fill(owned_by(tmp_path / "out", pid=os.getppid(), start=temporary._start_of(os.getppid()) or 0)),
        fill(owned_by(tmp_path / "out", pid=dead_process, host="0" * 6)),
        fill(tmp_path / ".out.e2ac5ae4.tmp"),  # not ours, or of a version whose names did not tell
    ]
    write(tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "out"])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="nothing tells when a process started")
def test_a_number_that_another_process_has_now_does_not_keep_a_leftover(tmp_path):
    fill(owned_by(tmp_path / "out", start=1))
    fill(owned_by(tmp_path / "out", pid=os.getppid(), start=1))
    write_folder(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("there", [False, True], ids=["before the new one came", "after it"])
def test_a_folder_set_aside_by_a_dead_process_comes_back_or_goes(there, dead_process, tmp_path):
    fill(owned_by(tmp_path / "out", pid=dead_process, kind=SET_ASIDE), "old")
    if there:
        fill(tmp_path / "out", "newer")
    with pytest.raises(OutputError, match="exists already"), atomic_folder(tmp_path / "out"):
        pytest.fail("entered")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == ("newer" if there else "old")


def test_a_scratch_folder_goes_at_the_end_and_after_a_kill_at_the_next_start(dead_process, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fill(owned_by(tmp_path / "musiclora", pid=dead_process))
    kept = fill(tmp_path / "other")
    with scratch_folder() as folder:
        assert sorted(tmp_path.iterdir()) == sorted([folder, kept])
        with atomic_folder(folder / "model") as inner:
            assert inner.name != "model"
    assert list(tmp_path.iterdir()) == [kept]


def test_two_long_names_that_begin_alike_do_not_share_a_sibling(tmp_path):
    first, second = (_END.sub("", temporary_sibling(tmp_path / ("音" * 70 + end)).name) for end in "ab")
    assert first != second
    atomic_write(tmp_path / ("音" * 80), "x")
    with atomic_folder(tmp_path / ("音" * 81)) as folder:
        assert len(os.fsencode(folder.name)) < 200


def test_writers_inside_a_folder_that_is_being_filled_write_in_place(tmp_path):
    with atomic_folder(tmp_path / "out") as folder:
        with atomic_folder(folder) as same, atomic_folder(same / "vae") as inner:
            assert (same, inner) == (folder, folder / "vae")
            atomic_write(inner / "config.json", "{}")
        with atomic_file(folder / "one") as file:
            file.write_text("1")
        assert len(list(tmp_path.iterdir())) == 1
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["config.json", "one", "vae"]


def test_a_writer_inside_that_fails_is_as_if_it_had_not_begun(tmp_path):
    def fail(path: Path) -> None:
        with atomic_folder(path) as inner:
            (inner / "file").write_text("x")
            raise ValueError("x")

    with atomic_folder(tmp_path / "out") as folder:
        with pytest.raises(ValueError, match="x"):
            fail(folder / "inner")
        fill(folder / "outer")
        with pytest.raises(OutputError, match="exists already"), atomic_folder(folder / "outer"):
            pytest.fail("entered")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["outer"]


@pytest.mark.parametrize("write", WRITERS, ids=["folder", "file", "bytes"])
def test_a_dangling_link_as_destination_is_refused_and_kept(write, tmp_path):
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "unplugged" / "disk")
    with pytest.raises(OutputError, match=r"leads nowhere|exists already"):
        write(link)
    assert link.is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_folder_stands_for_that_folder(tmp_path):
    real, link = fill(tmp_path / "big" / "disk"), tmp_path / "here" / "out"
    link.parent.mkdir()
    link.symlink_to(real)
    write_folder(link)
    assert link.is_symlink()
    assert (real / "file").read_text() == "new"
    assert [path.name for path in (*real.parent.iterdir(), *link.parent.iterdir())] == ["disk", "out"]
