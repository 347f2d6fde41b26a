"""The layers: who may import whom, what the command line loads, how the packages are found."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
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


# Rooms of musiclora/, from the bottom up; a file may import what lies in its own room or below it.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("__init__", "progress", "formats", "errors", "bundled", "children", "music"),
    ("families", "flow", "sampling"),
    ("models", "reporting"),
    ("adapters", "evaluation", "generation_result"),
    ("training",),
    ("symbolic", "audio"),
    ("demo", "conversion", "doctor"),
    ("jobs",),
    ("ui",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}


def module_of(path: Path) -> str:
    """Dotted name of a source file, with the packages mapped as in pyproject.toml."""
    top, *rest = path.relative_to(ROOT).with_suffix("").parts
    parts = ["musiclora", *([] if top == "musiclora" else [top]), *rest]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Modules that each module imports, imports for type checking and inside functions included."""
    graph = {}
    for name, path in modules.items():
        found = imports(path)
        graph[name] = {m for text in found for m in (text, text.rpartition(".")[0]) if m in modules and m != name}
        # `from package import module` names the module; the package itself is not meant then
        graph[name] -= {m for text in found if text in modules for m in (text.rpartition(".")[0],)} - set(found)
    return graph


def cycles_in(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan 1972: strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in graph[node]:
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in order:
            visit(node)
    return found


def room_of(module: str) -> str | None:
    """First folder or file below musiclora/; None for the two lower packages."""
    parts = module.split(".")
    if len(parts) == 1:
        return "__init__"
    return None if parts[1] in FOLDERS else parts[1]


def rises_or_crosses(module: str, target: str) -> bool:
    """Whether an import goes to a room above, or to another room of the same floor."""
    own, other = room_of(module), room_of(target)
    if own is None or other is None or own == other:
        return False
    return FLOOR[other] >= FLOOR[own]


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


# Folders of convert/, from the bottom up.
CONVERT_FOLDERS = ("errors", "files", "models", "adapters")


def rises_in_convert(module: str, target: str) -> bool:
    """Tell whether an import within convert/ goes to a folder above."""
    floors = []
    for name in (module, target):
        parts = name.split(".")
        if parts[:2] != ["musiclora", "convert"] or len(parts) < 3:
            return False
        floors.append(CONVERT_FOLDERS.index(parts[2]))
    return floors[1] > floors[0]


GRAPH = import_graph({module_of(path): path for path in SOURCES})


def test_every_room_has_its_floor():
    assert {room for module in GRAPH if (room := room_of(module))} == set(FLOOR)
    assert len([path for path in (ROOT / "musiclora").glob("[a-z]*") if path.name != "py.typed"]) <= 23


@pytest.mark.parametrize("module", [m for m in GRAPH if room_of(m)])
def test_rooms_import_downwards_only(module):
    assert [target for target in sorted(GRAPH[module]) if rises_or_crosses(module, target)] == []


@pytest.mark.parametrize("module", [m for m in GRAPH if m.startswith("musiclora.convert.")])
def test_folders_of_convert_import_downwards_only(module):
    assert [target for target in sorted(GRAPH[module]) if rises_in_convert(module, target)] == []


def test_no_two_files_import_each_other():
    assert cycles_in(GRAPH) == []


def test_the_checks_see_a_cycle_and_an_upward_import():
    assert cycles_in({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert rises_or_crosses("musiclora.training.loop", "musiclora.audio.task")
    assert rises_or_crosses("musiclora.symbolic.task", "musiclora.audio.task")
    assert not rises_or_crosses("musiclora.audio.task", "musiclora.training.task")
    assert rises_in_convert("musiclora.convert.files.fingerprint", "musiclora.convert.models.gpt2")
    assert rises_in_convert("musiclora.convert.models.gpt2", "musiclora.convert.adapters.lora")
    assert not rises_in_convert("musiclora.convert.adapters.lora", "musiclora.convert.files.atomic")


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


def test_every_folder_of_code_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert set(listed) == {module_of(path) for path in SOURCES if path.name == "__init__.py"}


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
        "from musiclora.training.config import list_presets\nassert {'artist', 'flavor'} <= set(list_presets())\n"
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
