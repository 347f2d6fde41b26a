"""A cache of its own for each test of the models' files."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICLORA_CACHE", str(tmp_path / "cache"))
