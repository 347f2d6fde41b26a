"""Temporary siblings: names that tell their owner, and removal of those whose owner is dead."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

TEMPORARY, SET_ASIDE = "tmp", "old"
_LONGEST_NAME_BYTES = 120  # of the destination's name; file systems allow 255 for the whole
_OWNER = r"(?P<host>[0-9a-f]{6})-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}"
_NAME = re.compile(rf"\.(?P<of>.+)\.{_OWNER}\.(?P<kind>{TEMPORARY}|{SET_ASIDE})", re.DOTALL)
_building: set[Path] = set()  # temporary siblings that this process is filling


def temporary_sibling(path: Path, kind: str = TEMPORARY) -> Path:
    """Name a sibling of path after its owner: host, process, and the process's start, since numbers are used again."""
    own = f"{_host_mark()}-{os.getpid()}-{_start_of(os.getpid()) or 0}-{uuid.uuid4().hex[:8]}"
    return path.parent / f".{_short_name(path)}.{own}.{kind}"


@contextlib.contextmanager
def building(temporary: Path) -> Iterator[None]:
    """Mark a temporary sibling as being filled, so that writers inside it write in place."""
    _building.add(temporary)
    try:
        yield
    finally:
        _building.discard(temporary)


def is_building(path: Path) -> bool:
    """Return True for a temporary sibling that this process is filling, and for everything inside one."""
    return not _building.isdisjoint((path, *path.parents))


def remove_leftovers(path: Path) -> None:
    """Remove the temporary siblings in a path's folder that dead processes of this host left.

    A folder that was set aside for its replacement comes back where the process died before the replacement came.
    Siblings of live processes, of other hosts and of other programs stay.
    """
    for left in _list_folder(path.parent):
        match = _NAME.fullmatch(left.name)
        if match is None or not _is_dead(match):
            continue
        if match["kind"] == TEMPORARY:
            remove_tree(left)
        elif match["of"] == _short_name(path):
            with contextlib.suppress(OSError):
                remove_tree(left) if os.path.lexists(path) else left.rename(path)


def _list_folder(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder among the system's temporary files; after a kill, a later start removes it."""
    path = temporary_sibling(Path(tempfile.gettempdir()) / "musiclora")
    remove_leftovers(path)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_tree(path: Path) -> None:
    """Remove a file, a link or a folder, as far as the system allows."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _short_name(path: Path) -> str:
    name = os.fsencode(path.name)
    if len(name) <= _LONGEST_NAME_BYTES:
        return path.name
    return f"{name[: _LONGEST_NAME_BYTES - 9].decode('utf-8', 'ignore')}~{zlib.crc32(name):08x}"


@functools.cache
def _host_mark() -> str:
    """Hash what tells this host, and this container's process numbers, from others that share its folders."""
    facts = [platform.node()]
    with contextlib.suppress(OSError):
        facts.append(Path("/etc/machine-id").read_text(encoding="ascii", errors="replace"))
    with contextlib.suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - no path, a name such as pid:[4026531836]
    return hashlib.sha256("\n".join(facts).encode("utf-8", "replace")).hexdigest()[:6]


def _start_of(pid: int) -> int | None:
    """Return a process's start in clock ticks since boot; None where the system does not tell, 0 for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _is_dead(owner: re.Match[str]) -> bool:
    """Return True where the process that a name tells has certainly ended."""
    if owner["host"] != _host_mark() or os.name == "nt":  # Windows has no harmless signal to ask with
        return False
    pid = int(owner["pid"])
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # a process of another user
        pass
    start = _start_of(pid)
    return start is not None and start != int(owner["start"])
