"""pyproject.toml: the oldest packages of the CI job are its bounds, data files are packed, named extras exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    text = (ROOT / ".ci" / file).read_text(encoding="utf-8")
    return {canonical(name): version for name, version in re.findall(r"^([\w-]+)==([\d.]+)", text, re.MULTILINE)}


def bounds(*extras: str) -> dict[str, str]:
    lines = PYPROJECT["project"]["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    found = [re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line) for line in lines if not line.startswith("musiclora[")]
    assert all(found), lines
    return {canonical(match[1]): match[2] for match in found if match}


@pytest.mark.parametrize(
    ("file", "extras"), [("lowest.txt", ("mlx", "torch", "audio", "score", "demo"))], ids=["mlx, torch and demo"]
)
def test_the_oldest_packages_of_ci_are_the_bounds(file, extras):
    pinned, lowest = pins(file), bounds(*extras)
    tools = bounds("dev")
    assert pinned.keys() >= lowest.keys()
    for name, version in pinned.items():
        bound = (lowest | tools)[name]
        assert f"{version}.0.0".startswith(f"{bound}."), f"{name}: {version} is tried, {bound} is allowed"


def is_data(path: Path) -> bool:
    return path.is_file() and path.suffix not in {".py", ".pyc"} and not path.name.startswith(".")


def test_every_file_beside_the_code_is_package_data():
    setuptools = PYPROJECT["tool"]["setuptools"]
    folders = {package: ROOT / package.replace(".", "/") for package in setuptools["package-data"]}
    packed = {
        path
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in folders[package].glob(pattern)
    }
    found = {path for name in setuptools["package-dir"].values() for path in (ROOT / name).rglob("*")}
    assert {path for path in found if is_data(path)} == {path for path in packed if is_data(path)}


def test_the_extras_that_documents_and_messages_name_exist():
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / ".ci" / "run", ROOT / ".ci" / "lowest"]
    files += [path for name in ("musiclora", "backends", "convert") for path in (ROOT / name).rglob("*.py")]
    named = {
        extra
        for path in files
        for extras in re.findall(
            r"(?:install|-e) .{0,12}?(?:musiclora|\.)\[([\w,-]+)\]", path.read_text(encoding="utf-8")
        )
        for extra in extras.split(",")
    }
    assert {"mlx", "torch", "demo", "audio", "acestep"} <= named <= EXTRAS.keys()
