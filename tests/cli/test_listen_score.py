"""`musiclora listen score`: the figures, and rating files that do not count."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from refusal import refused

from musiclora.cli import main
from musiclora.evaluation.listening.key import CONDITIONS, KEY_FORMAT, RATINGS_FORMAT, ratings_checksum

TEST = "0123456789abcdef"
IDS = [f"{number:08x}" for number in range(6)]


def run(*arguments):
    return CliRunner().invoke(main, ["listen", "score", *map(str, arguments)])


@pytest.fixture
def key(tmp_path) -> Path:
    items = [
        {"id": name, "condition": CONDITIONS[i // 2], "file": f"{i}.mid", "start_seconds": 0.0, "gain_db": 0.0}
        for i, name in enumerate(IDS)
    ]
    path = tmp_path / "test.key.json"
    path.write_text(
        json.dumps({"format": KEY_FORMAT, "version": 1, "test": TEST, "title": "Songs", "items": items}),
        encoding="utf-8",
    )
    return path


def write_ratings(folder: Path, listener: str, degrees=(2, 2, 4, 4, 5, 5), test: str = TEST, ids=IDS) -> Path:
    rows = [{"item": name, "musicality": d, "style_accuracy": d} for name, d in zip(ids, degrees, strict=False)]
    text = {"format": RATINGS_FORMAT, "version": 1, "test": test, "listener": listener, "ratings": rows}
    path = folder / f"{listener}.json"
    path.write_text(json.dumps(text | {"checksum": ratings_checksum(test, listener, rows)}), encoding="utf-8")
    return path


def test_score_computes_means_changes_and_agreement(key, tmp_path):
    files = [
        write_ratings(tmp_path, f"l{i}", np.clip(np.array([2, 2, 4, 4, 5, 5]) - i % 2, 1, 5).tolist()) for i in range(6)
    ]
    done = run(key, *files, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["listeners"] == 6
    assert found["items"] == {"base": 2, "adapted": 2, "real": 2}
    score = found["questions"]["musicality"]
    assert [score["means"][name]["mean"] for name in CONDITIONS] == [1.5, 3.5, 4.5]
    against_base, against_real = score["changes"]
    assert against_base["estimate"]["mean"] == 2
    assert against_base["p"] == 2 / 2**6
    assert against_real["estimate"]["mean"] == -1
    # the listeners' means are 1 or 2: a standard deviation of 0.548, t of 5 degrees is 2.571
    half = 2.571 * 0.5477 / 6**0.5
    assert score["means"]["base"]["over_listeners"] == pytest.approx([1.5 - half, 1.5 + half], abs=1e-3)
    assert 0.5 < score["agreement"] < 1


def test_score_says_the_result_in_words_and_warns_of_few_listeners(key, tmp_path):
    done = run(key, write_ratings(tmp_path, "a"), write_ratings(tmp_path, "b"))
    assert done.exit_code == 0
    assert "Songs: 2 listeners, 6 excerpts, test 0123456789abcdef" in done.stdout
    assert "adapted against base: +2.00" in done.stdout
    assert "2 listeners: take intervals and agreement with care" in done.stderr
    assert "no p below 0.5 is possible" in done.stderr


def test_one_listener_has_no_interval_and_no_test(key, tmp_path):
    done = run(key, write_ratings(tmp_path, "a"), "--json")
    score = json.loads(done.stdout)["questions"]["musicality"]
    assert score["means"]["base"] == {"mean": 2.0, "over_listeners": None, "over_both": None}
    assert score["changes"][0]["p"] is None
    assert score["agreement"] is None


def test_a_folder_stands_for_its_files(key, tmp_path):
    for name in "abc":
        write_ratings(tmp_path, name)
    found = json.loads(run(key, tmp_path, "--json").stdout)
    assert found["listeners"] == 3
    assert found["left_out"] == []


def edit(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace('"musicality": 2', '"musicality": 5', 1), encoding="utf-8")


def bad_file(kind: str, folder: Path) -> Path:
    if kind == "another test":
        return write_ratings(folder, "bad", test="f" * 16)
    if kind == "incomplete":
        return write_ratings(folder, "bad", degrees=(1, 2, 3))
    if kind == "twice":
        return write_ratings(folder, "bad", ids=[*IDS[:5], IDS[0]])
    if kind == "range":
        return write_ratings(folder, "bad", degrees=(6, 2, 3, 4, 5, 1))
    path = write_ratings(folder, "bad")
    if kind == "edited":
        edit(path)
    elif kind == "no JSON":
        path.write_text("ratings", encoding="utf-8")
    elif kind == "copied":
        path.write_bytes(write_ratings(folder, "a").read_bytes())
    elif kind == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("another test", "is of another test"),
        ("incomplete", "is incomplete: 3 of 6 excerpts are not rated"),
        ("twice", "rates excerpts twice"),
        ("range", "expected a whole number from 1 to 5"),
        ("edited", "was changed after it was saved"),
        ("no JSON", "is not usable JSON"),
        ("copied", "is by the listener of"),
        ("missing", "cannot read"),
    ],
)
def test_a_file_that_does_not_count_is_said_and_left_out(kind, reason, key, tmp_path):
    good, bad = write_ratings(tmp_path, "a"), bad_file(kind, tmp_path)
    done = run(key, good, bad, "--json")
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("left out ")]
    assert reason in line
    assert "bad.json" in line
    assert "1 of 2 files of ratings left out" in done.stderr
    assert json.loads(done.stdout)["listeners"] == 1


def test_a_complete_file_counts_after_an_incomplete_one_of_the_same_listener(key, tmp_path):
    early = write_ratings(tmp_path, "a", degrees=(1, 2, 3)).rename(tmp_path / "early.json")
    found = json.loads(run(key, early, write_ratings(tmp_path, "a"), "--json").stdout)
    assert found["listeners"] == 1
    assert "incomplete" in found["left_out"][0]


def test_score_refuses_where_nothing_remains(key, tmp_path):
    refused(run(key, bad_file("edited", tmp_path)), "no ratings of test", "was changed")
    (tmp_path / "empty").mkdir()
    refused(run(key, tmp_path / "empty"), "no files")


@pytest.mark.parametrize(
    "text", ["", "{}", '{"format": "other", "version": 1, "test": "", "title": "", "items": []}'], ids=len
)
def test_score_refuses_a_file_that_is_no_key(text, tmp_path):
    path = tmp_path / "wrong.key.json"
    path.write_text(text, encoding="utf-8")
    refused(run(path, write_ratings(tmp_path, "a")), "wrong.key.json")
