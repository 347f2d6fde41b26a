"""What the documents say: every command in them exists with these options, and CI runs the README's test command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from musiclora.cli import main
from musiclora.cli.common import ManyCommand

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "examples").rglob("*.md")), *sorted((ROOT / "musiclora").rglob("*.md"))]


def command_lines(page):
    """The `musiclora ...` lines of a page's code blocks, comments cut off."""
    lines = []
    for block in re.findall(r"^```(?:bash|sh)?\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        joined = block.replace("\\\n", " ")
        lines += [m[1].split(" #")[0].strip() for m in re.finditer(r"(?:^|&& )musiclora (.*)$", joined, re.MULTILINE)]
    return lines


LINES = [(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in command_lines(page)]


@pytest.mark.parametrize(("page", "line"), LINES, ids=lambda value: value[:60])
def test_a_command_in_the_documents_parses(page, line):
    arguments = shlex.split(line)
    command = main.get_command(click.Context(main), arguments.pop(0))
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), arguments.pop(0))
    assert command is not None, line
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
    assert given <= known | {"--help"}
    assert isinstance(command, ManyCommand | click.Command)


def test_the_readme_has_commands():
    assert sum(page == "README.md" for page, _ in LINES) >= 5


def test_ci_runs_exactly_the_test_command_of_the_readme():
    (command,) = re.findall(r"^(pip install .* && .*pytest)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line == command]


def test_nothing_names_a_package_registry():
    pages = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / ".ci" / "run", ROOT / "pyproject.toml"]
    hosts = re.compile(r"py(pi|thonhosted)\.org|deb\.debian\.org|npmjs\.org", re.IGNORECASE)
    assert not [page.name for page in pages if hosts.search(page.read_text(encoding="utf-8"))]
