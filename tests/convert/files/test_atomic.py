"""Atomic writing of files and folders."""

import errno
import os
import threading
from pathlib import Path

import pytest

from musiclora.convert.errors import OutputError
from musiclora.convert.files.atomic import atomic_file, atomic_folder, atomic_write, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_finished_folder_appears_with_its_parents_and_nothing_else(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "p" / "out") as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "f").write_text("x")
        assert not (tmp_path / "p" / "out").exists()
    assert names(tmp_path) == ["f", "out", "p", "sub"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()], ids=["exception", "Ctrl-C"])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwriting"])
def test_a_failure_leaves_what_was_there_before(error: BaseException, existing: bool, tmp_path: Path) -> None:
    out = tmp_path / "p" / "out"
    if existing:
        out.mkdir(parents=True)
        (out / "old").write_text("old")
    before = names(tmp_path)

    def write() -> None:
        with atomic_folder(out, overwrite=True) as temporary:
            (temporary / "new").write_text("new")
            raise error

    with pytest.raises(type(error)):
        write()
    assert names(tmp_path) == before


def test_overwrite_swaps_the_whole_folder_and_without_it_the_old_one_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(OutputError, match="exists already"), atomic_folder(out):
        pytest.fail("entered")
    with atomic_folder(out, overwrite=True) as temporary:
        (temporary / "new").write_text("new")
    assert names(tmp_path) == ["new", "out"]


def test_a_failing_swap_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="cannot write"), atomic_folder(out, overwrite=True) as temporary:
        (temporary / "new").write_text("new")
    assert names(tmp_path) == ["old", "out"]


def test_a_full_disk_is_one_line_that_names_the_folder_and_a_way_out(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OutputError) as error, atomic_folder(tmp_path / "out"):
        raise full
    assert str(error.value) == (
        f"cannot write {tmp_path / 'out'}: No space left on device; free some space or choose another place"
    )
    assert names(tmp_path) == []


def test_an_error_about_an_input_file_passes_through_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "out"):
        (tmp_path / "input").read_text()


def test_a_parent_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(OutputError, match="is a file"), atomic_folder(tmp_path / "f" / "out"):
        pytest.fail("entered")
    with pytest.raises(OutputError, match="is a file"), atomic_folder(tmp_path / "f"):
        pytest.fail("entered")


def test_readers_of_an_atomic_file_never_see_a_part_of_it(tmp_path: Path) -> None:
    path, seen, done = tmp_path / "f.json", set(), threading.Event()
    write_json(path, {"v": "a" * 10_000})

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for letter in "bcdefgh" * 5:
        atomic_write(path, letter * 10_000)
    done.set()
    reader.join()
    assert {len(text) for text in seen} <= {10_000, len('{\n  "v": ""\n}\n') + 10_000}
    assert names(tmp_path) == ["f.json"]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_file_that_another_process_makes_meanwhile_is_not_replaced(links: bool, tmp_path: Path, monkeypatch) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", _no_links)
    target = tmp_path / "a.mid"
    with pytest.raises(OutputError, match="exists already"):
        _write_beside_another(target)
    with pytest.raises(OutputError, match="exists already"):
        atomic_write(target, "mine", overwrite=False)
    assert target.read_text() == "theirs"
    atomic_write(tmp_path / "b.mid", "mine", overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mid", "b.mid"]
    assert (tmp_path / "b.mid").read_text() == "mine"


def _write_beside_another(target: Path) -> None:
    with atomic_file(target) as temporary:
        temporary.write_text("mine")
        target.write_text("theirs")


def _no_links(path: Path, target: Path) -> None:
    raise PermissionError("no hard links here")


def test_a_folder_that_another_process_makes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(OutputError, match="exists already"):
        _fill_beside_another(target)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


def _fill_beside_another(target: Path) -> None:
    with atomic_folder(target) as temporary:
        (temporary / "mine").touch()
        target.mkdir()
        (target / "theirs").touch()
