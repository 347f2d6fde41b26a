"""A copy of the files of commit 6ef70d8 as the working directory."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import pytest
from old_files import FILES


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files as the working directory, since runs record the paths that were typed."""
    folder = tmp_path / "work"
    shutil.copytree(FILES, folder)
    for path in folder.rglob("*.xz"):
        path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        path.unlink()
    monkeypatch.chdir(folder)
    return folder
