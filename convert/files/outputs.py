"""Early checks of outputs: that they replace nothing they must not, and that they can be written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from musiclora.convert.errors import ConfigError
from musiclora.convert.files.temporary import remove_leftovers, temporary_sibling


def check_outputs(
    option: str, outputs: Sequence[Path], inputs: Mapping[str, Path | str | None], *, overwrite: bool
) -> None:
    """Check the names of files before any work is done for them.

    Args:
        option: option that names the outputs.
        outputs: every file that the command will write.
        inputs: what the command reads, by option; values that name no file are ignored.
        overwrite: replace files that exist. An input is never replaced.

    Raises:
        ConfigError: an output is an input, also by another spelling or a link, or exists, or is a dangling link.
    """
    for output in outputs:
        if output.is_symlink() and not output.exists():
            raise ConfigError(f"{option} {output}: is a link that leads nowhere; choose another name")
        for name, path in inputs.items():
            if path and same_place(output, Path(path)):
                raise ConfigError(f"{option} {output}: is the file of {name}; choose another name")
    taken = [output for output in outputs if os.path.lexists(output)]
    if taken and not overwrite:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise ConfigError(f"{option}: {taken[0]}{more} exists already; choose another name, or --overwrite replaces it")


def check_apart(output: Path, inputs: Mapping[str, Path | str | None], option: str = "--output-dir") -> None:
    """Check that a folder to write lies neither inside a folder that is read nor around it.

    Raises:
        ConfigError: it does, or is the same folder.
    """
    for name, path in inputs.items():
        if path and os.path.lexists(path) and (_lies_in(output, Path(path)) or _lies_in(Path(path), output)):
            raise ConfigError(
                f"{option} {output} and {name} {path} lie inside one another: the input would be overwritten, or the "
                "output read as input at the next start; choose a folder beside it"
            )


def check_writable(path: Path, option: str) -> None:
    """Check before any work that a file or folder can be made at path; see `check_folder` for folders.

    What dead processes left there is removed.

    Args:
        path: destination; its parents may be missing.
        option: option that named it, for the message.

    Raises:
        ConfigError: the nearest existing folder above it, or the folder itself, refuses a new file.
    """
    parent = path.absolute() if path.is_dir() else path.absolute().parent
    while not os.path.lexists(parent):
        parent = parent.parent
    probe = temporary_sibling(parent / "musiclora")
    remove_leftovers(probe)
    try:
        probe.write_bytes(b"\0" * 4096)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{option} {path}: {parent} cannot be written ({reason}); choose another {option}") from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def check_folder(path: Path, option: str = "--output-dir") -> None:
    """Check before any work that a folder can be made, or written to, at path.

    Raises:
        ConfigError: a file or a dangling link is there, or it cannot be written; see `check_writable`.
    """
    if path.is_symlink() and not path.exists():
        raise ConfigError(f"{option} {path}: is a link that leads nowhere; choose another folder")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{option} {path}: is a file; give a folder")
    check_writable(path, option)


def same_place(first: Path, second: Path) -> bool:
    """Return True where two paths name one file or folder, whatever their spelling and through links."""
    try:
        return first.samefile(second)
    except (OSError, ValueError):  # one of them does not exist
        return os.path.realpath(first) == os.path.realpath(second)


def _lies_in(path: Path, folder: Path) -> bool:
    inner = Path(os.path.realpath(path))
    return any(same_place(part, folder) for part in (inner, *inner.parents))
