"""Rating files of listeners: those that count, and the reasons why others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclora.convert.files.json_file import read_json
from musiclora.errors import ConvertError, DataError, join_problems
from musiclora.evaluation.listening.key import QUESTIONS, RATINGS_FORMAT, RATINGS_KIND, Key, ratings_checksum


@dataclass(frozen=True)
class Ratings:
    """Complete ratings of one test.

    Attributes:
        values: integers 1 to 5 of each question, [listeners, items], items in the order of the key.
        files: those that count.
        left_out: one line for each file that does not.
    """

    values: dict[str, np.ndarray]
    files: tuple[Path, ...]
    left_out: tuple[str, ...]


def collect_ratings(key: Key, paths: Sequence[Path]) -> Ratings:
    """Read rating files; the first complete one of each listener counts.

    Args:
        key: of the test.
        paths: files, and folders whose .json files are read.

    Raises:
        DataError: none counts.
    """
    ids = [item.id for item in key.items]
    first: dict[str, Path] = {}
    rows: list[list[list[int]]] = []
    left_out: list[str] = []
    for path in list_files(paths):
        try:
            listener, answers = _read_answers(path, key, ids)
            if listener in first:
                raise DataError(f"is by the listener of {first[listener]}, which counts already")
        except (ConvertError, DataError) as error:
            text = str(error)
            left_out.append(text if text.startswith(("cannot read", str(path))) else f"{path}: {text}")
            continue
        first[listener] = path
        rows.append([[answers[name][question] for name in ids] for question in QUESTIONS])
    if not rows:
        raise DataError(f"no ratings of test {key.test} remain: {join_problems(left_out) or 'no files'}")
    table = np.array(rows)
    values = {question: table[:, number] for number, question in enumerate(QUESTIONS)}
    return Ratings(values, tuple(first.values()), tuple(left_out))


def list_files(paths: Sequence[Path]) -> list[Path]:
    """Replace folders by their .json files, without keys of tests."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.glob("*.json") if not p.name.endswith(".key.json")) if path.is_dir() else [path]
        found += inside
    return found


def _read_answers(path: Path, key: Key, ids: Sequence[str]) -> tuple[str, dict[str, dict[str, int]]]:
    """Read one listener's answers by item.

    Raises:
        ConvertError: no JSON of this form.
        DataError: of another test, edited, or incomplete.
    """
    found = read_json(path, RATINGS_KIND)
    if found["format"] != RATINGS_FORMAT or found["version"] != 1:
        raise DataError("is no file of ratings")
    if found["test"] != key.test:
        raise DataError(f"is of another test ({found['test'][:20]}, not {key.test})")
    if found["checksum"] != ratings_checksum(found["test"], found["listener"], found["ratings"]):
        raise DataError("was changed after it was saved: its checksum does not fit")
    answers = {row["item"]: row for row in found["ratings"]}
    missing = [name for name in ids if name not in answers]
    if len(found["ratings"]) < len(ids) and missing:
        raise DataError(f"is incomplete: {len(missing)} of {len(ids)} excerpts are not rated")
    if missing or len(found["ratings"]) != len(ids):
        raise DataError("rates excerpts twice, or some that are not in this test")
    return found["listener"], answers
