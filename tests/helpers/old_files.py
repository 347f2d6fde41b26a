"""Commands on files that commit 6ef70d8 wrote, and what they must still say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from musiclora.cli import main

FILES = Path(__file__).parents[1] / "golden" / "before_the_move" / "files"
COMMANDS: dict[str, list[str]] = json.loads((FILES / "commands.json").read_text(encoding="utf-8"))
EXPECTED: dict[str, float] = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
BLOCK = 2048  # frames that are encoded at once
FAMILIES = ("symbolic", "audio")
OUTPUT = {"symbolic": "new.mid", "audio": "new.wav"}
# A sum of n products in float32, in any order, is off by about sqrt(n) 2^-24 of its size. The widest here has 1548
# terms (2.4e-6) and some twenty follow each other: 5e-5, were all to add up. Between the backends 2e-7 was measured.
SCORED = 1e-4
# While training, Adam divides a gradient by its own size, so that entries near rounding may take another way; they
# are those that hardly change the loss. Ten times the above; a state without its moments is off by much more.
TRAINED = 1e-3


def call(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.stderr
    return result


def found(result: Result) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def rows(run: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def meta(run: Path | str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(run) / "training_meta.json").read_text(encoding="utf-8"))
    return content


def arrays_on_disk(folder: Path | str) -> dict[str, tuple[int, int, bytes]]:
    """Which file each .safetensors of a folder is, when it was written and what is in it."""
    paths = sorted(Path(folder).glob("*.safetensors"))
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in paths}


def evaluated(family: str, backend: str, *more: str | Path, model: str | Path = "") -> Result:
    base = model or f"bases/{family}"
    return call(*COMMANDS[f"evaluate {family}"], base, "--backend", backend, "--json", *more)


def assert_no_doubt(result: Result) -> None:
    """The adapter's fingerprints are there, and are those of the base and codec."""
    for words in ("another base", "another codec", "no fingerprint", "conversion of the base"):
        assert words not in result.stderr


def near(value: float, tolerance: float = SCORED) -> Any:
    return pytest.approx(value, rel=tolerance)


def same_course(today: list[dict[str, Any]], before: list[dict[str, Any]]) -> None:
    """The same steps at the same learning rates, with the losses that they had."""
    keys = ("step", "epoch", "lr")
    assert [[row.get(key) for key in keys] for row in today] == [
        [row.get(key) if key != "lr" or key not in row else pytest.approx(row[key], rel=1e-9) for key in keys]
        for row in before
    ]
    for name in ("loss", "val_loss", "train_loss"):
        assert [row.get(name, 0.0) for row in today] == near([row.get(name, 0.0) for row in before], TRAINED), name
