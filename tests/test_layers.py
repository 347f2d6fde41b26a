"""The layers: who may import whom, what the command line loads, how the packages are found."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"convert": 0, "backends": 1, "musiclora": 2}
FRAMEWORKS = {"mlx": "mlx", "torch": "torch", "peft": "torch", "transformers": "torch"}


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def layer(module: str) -> int | None:
    if not module.startswith("musiclora"):
        return None
    parts = module.split(".")
    return FOLDERS.get(parts[1], 2) if len(parts) > 1 else 2


SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_never_go_up_a_layer(path):
    own = FOLDERS[path.relative_to(ROOT).parts[0]]
    upward = [name for name in imports(path) if (target := layer(name)) is not None and target > own]
    assert not upward


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_frameworks_stay_in_their_folder(path):
    parts = path.relative_to(ROOT).parts
    here = parts[1] if parts[0] == "backends" and len(parts) > 2 else None
    strays = [n for n in imports(path) if (home := FRAMEWORKS.get(n.split(".")[0])) is not None and home != here]
    assert not strays


def test_the_check_itself_sees_an_upward_import(tmp_path):
    source = tmp_path / "bad.py"
    source.write_text("from musiclora.training.loop import Loop\nimport torch\n")
    assert [layer(name) for name in imports(source)] == [2, None]


@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["import", "help"])
def test_the_command_line_loads_click_and_the_standard_library_only(arguments):
    code = (
        "import sys\nbefore = set(sys.modules)\nimport musiclora\n"
        f"arguments = {arguments!r}\n"
        "if arguments:\n    from musiclora.cli import main\n    main(arguments, standalone_mode=False)\n"
        "names = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        "foreign = sorted(n for n in names if n not in sys.stdlib_module_names and not n.startswith('_'))\n"
        "sys.stderr.write(','.join(foreign))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "tests")
    assert set(done.stderr.split(",")) <= {"musiclora", "click", "colorama"}


@pytest.mark.parametrize("name", ["backends", "convert"])
def test_the_folders_refuse_to_be_imported_under_a_generic_name(name):
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1
    assert f"musiclora.{name}" in done.stderr


@pytest.mark.slow
def test_the_wheel_works_from_another_directory(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel], check=True)
    code = (
        "import musiclora, musiclora.backends.registry as r, musiclora.convert.adapters.peft, musiclora.cli\n"
        "from musiclora.models import find_model\nprint(r.__file__)\nprint(find_model('bundled').path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(target)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(target)) for line in done.stdout.splitlines())
