"""Atomic writing: files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from musiclora.convert.errors import OutputError
from musiclora.convert.files.temporary import (
    SET_ASIDE,
    building,
    is_building,
    remove_leftovers,
    remove_tree,
    temporary_sibling,
)

_FLUSH_BYTES = 1 << 26
_ERROR_HINTS = {
    errno.ENOSPC: "free some space or choose another place",
    errno.EDQUOT: "free some space or choose another place",
    errno.EROFS: "choose another place",
    errno.EACCES: "check the permissions or choose another place",
    errno.EPERM: "check the permissions or choose another place",
    errno.ENOTDIR: "a part of the path is a file; choose another place",
    errno.EEXIST: "a part of the path is a file; choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_DEVICE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}


def write_error(path: Path, error: OSError) -> OutputError:
    """Describe in one line an output that the system refuses, with a remedy."""
    hint = _ERROR_HINTS.get(error.errno or 0, "choose another place")
    return OutputError(f"cannot write {path}: {error.strerror or error}; {hint}")


@contextmanager
def atomic_folder(dst: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling that becomes dst on success and vanishes on any exception, Ctrl-C included.

    Inside a temporary sibling that is being filled, dst itself is yielded: it appears with the whole. What dead
    processes left beside dst is removed first.

    Args:
        dst: folder to create, with its parents (removed again on failure); an empty folder counts as absent. A link to
            a folder stands for that folder.
        overwrite: swap an existing folder for the new one; until the new one is complete the old one stays.

    Raises:
        OutputError: dst exists and overwrite is off, dst is a file or a dangling link, or the system refuses to write.
    """
    dst = Path(os.path.abspath(dst))  # noqa: PTH100 - resolve() would follow a link that is to be refused
    if is_building(dst):
        with _part_of_whole(dst, overwrite):
            yield dst
        return
    dst = dst.resolve() if dst.is_symlink() and dst.is_dir() else dst
    remove_leftovers(dst)
    refuse_existing(dst, overwrite)
    temporary = temporary_sibling(dst)
    with new_parents_of(dst):
        try:
            temporary.mkdir(parents=True)
            with building(temporary):
                yield temporary
            _sync_tree(temporary)
            _move_into_place(temporary, dst, overwrite)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError) and _is_about_output(error, temporary, dst):
                raise write_error(dst, error) from error
            raise


@contextmanager
def _part_of_whole(dst: Path, overwrite: bool) -> Iterator[None]:
    """Make a folder inside one that is being filled; on failure it is as if it had not been begun."""
    refuse_existing(dst, overwrite)
    existed = dst.is_dir()
    if existed and overwrite:
        for path in dst.iterdir():
            remove_tree(path)
    try:
        dst.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        if not existed:
            shutil.rmtree(dst, ignore_errors=True)
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write and flush; it becomes path on success and vanishes on any exception.

    Inside a temporary sibling that is being filled, path itself is yielded.

    Raises:
        OutputError: path exists, or the system refuses to write.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - as above
    if is_building(path):
        yield path
        return
    remove_leftovers(path)
    if os.path.lexists(path):
        raise _exists_error(path)
    temporary = temporary_sibling(path)
    with new_parents_of(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with building(temporary):
                yield temporary
            _rename_new(temporary, path)
            sync_folder(path.parent)
        except OSError as error:
            if _is_about_output(error, temporary, path):
                raise write_error(path, error) from error
            raise
        finally:
            remove_tree(temporary)


@contextmanager
def new_parents_of(path: Path) -> Iterator[None]:
    """Remove the folders above path that the block created, if it fails and they are empty."""
    parents = [parent for parent in Path(os.path.abspath(path)).parents if not parent.exists()]  # noqa: PTH100 - as above
    try:
        yield
    except BaseException:
        for parent in parents:
            with suppress(OSError):
                parent.rmdir()
        raise


def atomic_write(path: Path, data: bytes | str, *, overwrite: bool = True) -> None:
    """Write one file; readers see the old content or the new, never a part. Text is UTF-8.

    Inside a temporary sibling that is being filled, the file is written in place.

    Args:
        path: the file.
        data: its content.
        overwrite: replace a file that exists, also one that another process made a moment ago.

    Raises:
        OutputError: path is a dangling link, exists and overwrite is off, or the system refuses to write; path is left
            as it was.
    """
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    whole = is_building(path.absolute())
    temporary = path if whole else temporary_sibling(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if whole:
            path.write_bytes(content)
            return
        remove_leftovers(path)
        _refuse_dangling(path)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path) if overwrite else _rename_new(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if not whole:
            remove_tree(temporary)


class Flusher:
    """Background flush of a growing file, without which the last fsync would wait for gigabytes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = 0
        self._pool = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None

    def __enter__(self) -> Flusher:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()

    def wrote(self, count: int) -> None:
        """Count bytes that were written; start a flush if enough are pending and none is running."""
        self._pending += count
        if self._pending < _FLUSH_BYTES or (self._running and not self._running.done()):
            return
        if self._running:
            self._running.result()
        self._running, self._pending = self._pool.submit(os.fsync, self._descriptor), 0


def write_json(path: Path, obj: object) -> None:
    """Write obj as indented JSON, atomically."""
    atomic_write(path, json.dumps(obj, indent=2, ensure_ascii=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk; Windows cannot open folders and needs no such step."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_existing(dst: Path, overwrite: bool = False) -> None:
    """Check that a folder can appear at dst.

    Raises:
        OutputError: it is a file, a dangling link, or, where overwrite is off, a folder that is not empty.
    """
    _refuse_dangling(dst)
    if dst.is_dir():
        if not overwrite and any(dst.iterdir()):
            raise _exists_error(dst)
    elif dst.exists():
        raise OutputError(f"{dst} is a file; a folder is to be written there, choose another name")


def _refuse_dangling(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise OutputError(f"{path} is a link that leads nowhere; remove it or choose another name")


def _is_about_output(error: OSError, temporary: Path, dst: Path) -> bool:
    """Tell an error about the output from one about a file that the caller reads."""
    if error.errno in _DEVICE_ERRORS:
        return True
    named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    ours = {temporary, dst, *dst.parents}
    return any(name in ours or temporary in name.parents for name in named)


def _sync_tree(folder: Path) -> None:
    """Flush every file and folder below a folder to the disk."""
    mode = "rb+" if os.name == "nt" else "rb"  # Windows flushes no file that is open for reading only
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open(mode) as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def _rename_new(temporary: Path, path: Path) -> None:
    """Rename a file to a name that nothing has; renaming alone would replace what another process made meanwhile."""
    try:
        if os.name == "nt":
            temporary.rename(path)
        else:
            path.hardlink_to(temporary)
    except OSError as error:
        if os.path.lexists(path):
            raise _exists_error(path) from error
        temporary.replace(path)  # a file system without hard links


def _exists_error(path: Path) -> OutputError:
    return OutputError(f"{path} exists already; remove it or choose another name")


def _move_into_place(temporary: Path, dst: Path, overwrite: bool) -> None:
    """Rename temporary to dst; a filled dst is set aside first and comes back if that fails.

    Raises:
        OutputError: another process filled dst meanwhile, and overwrite is off.
    """
    refuse_existing(dst, overwrite)
    filled = dst.exists() and (os.name == "nt" or any(dst.iterdir()))
    old = temporary_sibling(dst, SET_ASIDE)
    try:
        if filled:
            dst.rename(old)
        temporary.rename(dst)
        sync_folder(dst.parent)
    finally:
        if filled and old.exists():
            remove_tree(old) if dst.exists() else old.rename(dst)
