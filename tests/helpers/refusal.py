"""Assertion for commands that refuse their input."""

from __future__ import annotations

from click.testing import Result


def refused(result: Result, *words: str) -> str:
    """Assert exit code 2 and one last line on stderr that holds these words, without a traceback; return the line."""
    last: str = result.stderr.strip().splitlines()[-1]
    assert result.exit_code == 2, result.output
    assert last.startswith("musiclora: ")
    assert "Traceback" not in result.output
    assert "internal failure" not in last
    for word in words:
        assert word in last
    return last
