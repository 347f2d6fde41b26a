"""Locks of folders that one process at a time may write to; the system frees them when the process dies."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from musiclora.convert.errors import OutputError
from musiclora.convert.files.atomic import new_parents_of, write_error

LOCK_FILE = ".lock"
_TRIES = 100
_IN_USE = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # some network file systems


class FolderInUseError(OutputError):
    """A live process holds the folder's lock."""


def take_lock(folder: Path) -> IO[str]:
    """Make a folder and take its lock without waiting; closing the file frees it.

    Raises:
        FolderInUseError: a live process holds it.
        OutputError: the system refuses to write.
    """
    for _ in range(_TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = (folder / LOCK_FILE).open("a+", encoding="utf-8")
        except FileNotFoundError:  # its last holder has just removed the folder
            continue
        except OSError as error:
            raise write_error(folder, error) from error
        try:
            _lock_file(handle)
        except OSError as error:
            handle.close()
            if error.errno not in _IN_USE:
                raise write_error(folder, error) from error
            text = f"{folder}: another process is writing here; wait until it ends, or choose another folder"
            raise FolderInUseError(text) from error
        if _is_still_there(folder / LOCK_FILE, handle):
            _write_holder(handle)
            return handle
        handle.close()  # its last holder has removed this file: try the next one
    raise OutputError(f"{folder}: cannot be locked; choose another folder")


def _is_still_there(path: Path, handle: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except OSError:
        return False


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, and remove it afterwards, with the folder and its new parents where they are empty.

    Raises:
        FolderInUseError: a live process holds it.
        OutputError: the system refuses to write.
    """
    with new_parents_of(folder):
        handle = take_lock(folder)
        try:
            yield
        finally:
            drop_lock(folder, handle)


def drop_lock(folder: Path, handle: IO[str]) -> None:
    """Remove a lock that is held, and the folder where nothing else is in it."""
    if os.name == "nt":  # which removes no open file
        handle.close()
    with suppress(OSError):
        (folder / LOCK_FILE).unlink()
        folder.rmdir()
    handle.close()


def is_locked(folder: Path) -> bool:
    """Return True where a live process holds a folder's lock; nothing is written."""
    try:
        handle = (folder / LOCK_FILE).open(encoding="utf-8")
    except OSError:
        return False
    with handle:
        try:
            _lock_file(handle, shared=True)
        except OSError as error:
            return error.errno in _IN_USE
    return False


def _write_holder(handle: IO[str]) -> None:
    """Note this process in its lock, for `lock_holder`; Windows lets no other process read a locked file."""
    if os.name == "nt":
        return
    with suppress(OSError):  # a full disk must not refuse the lock
        handle.truncate(0)
        handle.write(json.dumps({"process": os.getpid(), "host": platform.node()}))
        handle.flush()


def lock_holder(folder: Path) -> int | None:
    """Return the id of the process of this machine that holds a folder's lock; None where none is known to."""
    if not is_locked(folder):
        return None
    try:
        found = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))
        process, host = int(found["process"]), found["host"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return process if host == platform.node() and process > 1 else None


def _lock_file(handle: IO[str], *, shared: bool = False) -> None:
    """Take a lock without waiting, exclusive or shared; where the file system has none, go on without.

    Raises:
        OSError: another process has it.
    """
    if os.name == "nt":  # unverified: there is no Windows machine to try it on
        import msvcrt

        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        return
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
