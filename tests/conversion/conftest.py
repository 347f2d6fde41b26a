"""Fixtures of the tests of conversion."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act as a machine where neither framework is installed."""
    from musiclora.backends import registry

    monkeypatch.setattr(registry, "probe", lambda name: {"error": "not installed"})
