"""Free space on the disk, checked before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from musiclora.errors import OutputError

_SPARE_BYTES = 1 << 26  # left free on the disk


def check_free_space(folder: Path, data_bytes: int, what: str, advice: str) -> None:
    """Compare the free space of the disk that holds a folder, or will hold it, with the size of the data.

    Args:
        folder: destination of the data.
        data_bytes: their size.
        what: name of the data, for the message.
        advice: end of the message.

    Raises:
        OutputError: the disk is too small.
    """
    needed = data_bytes + _SPARE_BYTES
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OutputError(
            f"{folder}: {free / 1e6:,.0f} MB are free, {needed / 1e6:,.0f} MB are needed for the {what}; {advice}"
        )
