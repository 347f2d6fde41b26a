"""The documents: commands and options in them exist, links lead somewhere, and CI runs the README's test command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from musiclora.cli import main
from musiclora.formats import RECORDING_SUFFIXES

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted((ROOT / "musiclora").rglob("*.md")),
]
CODE = re.compile(r"^ *```(?:bash|sh)?\n(.*?)^ *```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)


def code_lines(page: Path) -> list[str]:
    """Lines of a page's code blocks and inline code, comments cut off, one command each."""
    lines = []
    for match in CODE.finditer(page.read_text(encoding="utf-8")):
        block = (match[1] or match[2]).replace("\\\n", " ")
        lines += [part.split(" #")[0].strip() for line in block.splitlines() for part in line.split(" && ")]
    return lines


def lines_with(pattern: str) -> list[tuple[str, str]]:
    """Pages, relative to the root, and their code lines that match from the start."""
    return [
        (page.relative_to(ROOT).as_posix(), line)
        for page in PAGES
        for line in code_lines(page)
        if re.match(pattern, line)
    ]


def options_in(arguments: list[str]) -> set[str]:
    return {argument.split("=")[0] for argument in arguments if argument.startswith("--")}


COMMANDS = lines_with(r"musiclora [a-z]")
SCRIPTS = lines_with(r"(python )?(tests/benchmarks|examples|scripts)/\w+")
LINKS = [
    (page.relative_to(ROOT).as_posix(), target)
    for page in PAGES
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    if not re.match(r"[a-z]+:", target)
]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: value[:60])
def test_a_command_in_the_documents_exists_with_its_options(page, line):
    arguments = shlex.split(line)[1:]
    command: click.Command | None = main
    while isinstance(command, click.Group) and arguments:
        command = command.get_command(click.Context(command), arguments.pop(0))
    assert command is not None, line
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert options_in(arguments) <= known | {"--help"}
    if not isinstance(command, click.Group):
        context = click.Context(command, resilient_parsing=True)
        command.parse_args(context, arguments)
        assert not [word for word in context.args if not re.match(r"\[|\$|.*\]$", word)], "more arguments than it takes"


@pytest.mark.parametrize(("page", "line"), SCRIPTS, ids=lambda value: value[:60])
def test_a_script_in_the_documents_exists_with_its_options(page, line):
    arguments = shlex.split(line.removeprefix("python "))
    script = ROOT / arguments.pop(0)
    assert script.exists()
    if script.is_file():
        text = script.read_text(encoding="utf-8")
        assert all(option in text for option in options_in(arguments))


@pytest.mark.parametrize(("page", "target"), LINKS, ids=str)
def test_a_link_leads_to_a_file_and_a_heading(page, target):
    path, _, heading = target.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    assert file.exists()
    if heading:
        found = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


@pytest.mark.parametrize("page", PAGES[:2] + sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_a_path_in_the_documents_exists(page):
    pattern = re.compile(r"(musiclora|backends|convert|tests|docs|examples|scripts)/[\w./-]+")
    assert not [line for line in code_lines(page) if pattern.fullmatch(line) and not (ROOT / line).exists()]


def test_every_page_of_docs_is_on_the_start_page_and_that_in_the_readme():
    assert ("README.md", "docs/index.md") in LINKS
    listed = re.findall(r"^\* \[[^\]]+\]\(([^)]+)\): ", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) >= {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}


def test_every_command_is_in_the_documents():
    assert {shlex.split(line)[1] for _, line in COMMANDS} == set(main.list_commands(click.Context(main)))


def test_ci_runs_exactly_the_test_command_of_the_readme():
    (command,) = re.findall(
        r"^(pip install .* && .*scripts/test --all)$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_nothing_names_a_package_registry():
    pages = [
        *PAGES,
        *(ROOT / name for name in ("CHANGELOG.md", ".ci/run", "pyproject.toml", ".pre-commit-config.yaml")),
    ]
    hosts = re.compile(r"py(pi|thonhosted)\.org|deb\.debian\.org|npmjs\.org", re.IGNORECASE)
    assert not [page.name for page in pages if hosts.search(page.read_text(encoding="utf-8"))]


def test_the_formats_in_the_documents_are_those_that_are_read():
    page = (ROOT / "docs" / "audio.md").read_text(encoding="utf-8")
    listed = page.split("These endings are read", 1)[1].split("libsndfile", 1)[0]
    assert set(re.findall(r"`(\.\w+)`", listed)) == RECORDING_SUFFIXES
