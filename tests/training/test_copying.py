"""A run over-trained on purpose: its samples are caught as copies, and it ends where that is asked for."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from melodies import changed, tune, write_songs
from session_helpers import adapter, equal, stop_after

from musiclora.backends.base import LossSum
from musiclora.cli import main
from musiclora.evaluation.copies.calibration import Reference
from musiclora.evaluation.copies.samples import SampleCopies
from musiclora.jobs import open_session
from musiclora.training.config import TrainConfig
from musiclora.training.copy_watch import CopyWatch
from musiclora.training.run_folder import Run, RunProgress

SONGS = [tune(i, bars=8) for i in range(5)]
OVERTRAINED = (
    *("--model", "bundled", "--val-split", "0", "--epochs", "80", "--lr", "3e-3", "--lora-dropout", "0"),
    *("--batch-size", "5", "--seed", "42"),
)


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def overtrained(backend_name, tmp_path_factory):
    """Run folder of a training that was to end when it copies."""
    root = tmp_path_factory.mktemp(f"copying-{backend_name}")
    songs = write_songs(root / "songs", SONGS)
    options = (*OVERTRAINED, "--stop-when-copying", "--backend", backend_name)
    done = run("train", "--data-dir", songs, "--output-dir", root / "run", *options)
    assert done.exit_code == 0, done.stderr
    return SimpleNamespace(root=root, songs=songs, run=root / "run", done=done, options=options, backend=backend_name)


@pytest.mark.slow
def test_a_model_that_learnt_five_songs_by_heart_is_caught_and_stopped(overtrained):
    meta = json.loads((overtrained.run / "training_meta.json").read_text())
    assert meta["ended"] == "copying"
    assert meta["steps"] < 160
    rows = [json.loads(line) for line in (overtrained.run / "metrics.jsonl").read_text().splitlines()]
    looks = [row for row in rows if "samples" in row]
    assert looks[0]["samples_copied"] == 0
    assert looks[-1]["samples_copied"] >= 2
    assert looks[-1]["step"] == meta["steps"]
    assert "samples copy a training song" in overtrained.done.output
    again = run("train", "--data-dir", overtrained.songs, "--output-dir", overtrained.run, *overtrained.options)
    assert "finished (copying)" in again.output
    assert "without --stop-when-copying continues it" in again.output


@pytest.mark.slow
def test_the_adapter_of_such_a_run_says_so(overtrained):
    adapter = overtrained.run / "adapter-best"
    card, record = (adapter / "README.md").read_text(), json.loads((adapter / "musiclora.json").read_text())
    assert "* split: 5 songs trained on, 0 held out" in card
    assert "* copying: " in card
    assert record["copies"]["samples"] == 8
    assert not any(song.name in path.read_text(errors="ignore") for path in adapter.iterdir() for song in SONGS)


@pytest.mark.slow
def test_its_pieces_are_copies_by_the_index_alone_and_with_the_songs(overtrained):
    adapter = overtrained.run / "adapter-last"
    options = ("--adapter-dir", adapter, "--count", 4, "--max-new-tokens", 200, "--backend", overtrained.backend)
    hashed = run("generate", "--output", overtrained.root / "a.mid", *options, "--json")
    assert hashed.exit_code == 0, hashed.stderr
    found = [file["copy"] for file in json.loads(hashed.stdout)["files"]]
    assert sum(copy["copied"] for copy in found) >= 2
    assert {copy["song"] for copy in found} == {None}
    located = run(
        "generate", "--output", overtrained.root / "b.mid", *options, "--train-dir", overtrained.songs, "--json"
    )
    found = [file["copy"] for file in json.loads(located.stdout)["files"] if file["copy"]["copied"]]
    assert len(found) >= 2
    assert {copy["song"] for copy in found} <= {f"{song.name}.mid" for song in SONGS}
    assert all(1 <= copy["song_bars"][0] <= copy["song_bars"][1] <= 8 for copy in found)
    line = run("generate", "--output", overtrained.root / "c.mid", *options, "--train-dir", overtrained.songs).stdout
    assert "copied: longest match" in line


@pytest.mark.slow
def test_avoid_copying_draws_such_pieces_again(overtrained):
    options = ("--adapter-dir", overtrained.run / "adapter-last", "--count", 4, "--max-new-tokens", 200)
    options = (*options, "--backend", overtrained.backend, "--json", "--avoid-copying")
    done = run("generate", "--output", overtrained.root / "d.mid", *options)
    assert done.exit_code == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    redrawn = [file for file in files if file["copy"]["redraws"]]
    assert len(redrawn) >= 2
    assert any(not file["copy"]["copied"] for file in redrawn)
    again = run("generate", "--output", overtrained.root / "e.mid", *options)

    def without_names(found):
        return [{k: v for k, v in file.items() if k not in ("path", "line")} for file in found]

    assert without_names(json.loads(again.stdout)["files"]) == without_names(files)


@pytest.mark.slow
def test_five_unseen_tunes_of_the_same_style_are_no_copies_of_those_songs(overtrained):
    unseen = overtrained.root / "unseen"
    if not unseen.exists():
        write_songs(unseen, [tune(seed, bars=8) for seed in range(60, 65)])
    done = run("evaluate", "--generated-dir", unseen, "--train-dir", overtrained.songs, "--json")
    copies = json.loads(done.stdout)["copies"]
    assert [copy["copied"] for copy in copies] == [False] * 5


@pytest.mark.slow
def test_the_report_says_how_many_samples_copy(overtrained):
    page = (overtrained.run / "report.html").read_text()
    section = page[page.index("Does it copy?") :]
    meta = json.loads((overtrained.run / "training_meta.json").read_text())
    assert f"{meta['copies']['copied']} of 8 samples copy a training song" in section
    assert f">step {meta['steps']}<" in section


def test_avoid_copying_without_songs_or_index_is_refused(tmp_path):
    done = run("generate", "--model", "bundled", "--output", tmp_path / "a.mid", "--avoid-copying")
    assert done.exit_code == 2
    assert "give --train-dir with the training songs" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("songs", "said"),
    [([], "no music in this folder"), ([changed(tune(0, bars=1), edit="drop", every=2)], "no song to compare with")],
    ids=["empty", "too short"],
)
def test_training_songs_that_hold_nothing_are_refused_before_a_file_is_written(tmp_path, songs, said):
    folder = write_songs(tmp_path / "songs", songs)
    done = run("generate", "--model", "bundled", "--output", tmp_path / "a.mid", "--train-dir", folder)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "a.mid").exists()


@pytest.mark.slow
def test_a_run_that_looks_for_copies_resumes_exactly(config):
    options = {"epochs": 5, "stop_when_copying": True, "val_split": 0.0}
    unbroken = open_session(config("unbroken", **options))
    unbroken.train()
    broken = open_session(config("broken", **options))
    stop_after(broken, 3)
    assert broken.run.read_progress().step == 3
    open_session(config("broken", **options)).train()
    assert equal(adapter(unbroken.run.path), adapter(broken.run.path))
    looks = [[row for row in s.run.read_metrics() if "samples" in row] for s in (unbroken, broken)]
    assert looks[0] == looks[1] != []


class _Task:
    """Task whose samples copy from a certain look on."""

    def __init__(self, copying_from: int) -> None:
        self.copying_from, self.looks = copying_from, 0

    def measure_samples(self, model, count, seed):
        self.looks += 1
        copied = count if self.looks >= self.copying_from else 0
        return SampleCopies((6,) * count, copied, 0.5, Reference())

    def judging_batches(self, config):
        return [["a", "b"], ["c"]]


class _Model:
    def loss(self, batch):
        return LossSum(20.0, 10.0)


def watch(tmp_path, task, *, epochs=10, **options):
    run_folder = Run(tmp_path)
    config = TrainConfig("songs", str(tmp_path), **options)
    return CopyWatch(task, config, epochs, run_folder, [LossSum(30.0, 15.0)], lambda text: None), run_folder


def test_a_run_ends_at_the_first_look_that_copies_and_keeps_an_earlier_best(tmp_path):
    looking, run_folder = watch(tmp_path, _Task(3), stop_when_copying=True)
    progress = RunProgress(step=5, seconds=1.0)
    assert not looking.look(_Model(), progress, 2.5)
    (tmp_path / "adapter-best").mkdir()
    assert not looking.look(_Model(), progress, 2.5)
    assert progress.ended == ""
    assert looking.look(_Model(), progress, 2.5)
    assert progress.ended == "copying"
    assert [row["loss_gap"] for row in run_folder.read_metrics()] == [0.5] * 3


def test_a_run_that_copies_from_the_beginning_keeps_what_it_has(tmp_path):
    looking, _ = watch(tmp_path, _Task(1), stop_when_copying=True)
    progress = RunProgress(step=5)
    assert not looking.look(_Model(), progress, None)
    assert progress.ended == "copying"


def test_a_long_run_is_looked_at_twenty_times_and_keeps_only_what_was_looked_at(tmp_path):
    task = _Task(1000)
    looking, _ = watch(tmp_path, task, epochs=100, stop_when_copying=True)
    (tmp_path / "adapter-best").mkdir()
    rejected = [looking.look(_Model(), RunProgress(step=i, epoch=i), None) for i in range(100)]
    assert task.looks == 21
    assert [not r for r in rejected] == [i % 5 == 0 or i == 99 for i in range(100)]


def test_the_last_evaluation_is_looked_at_whatever_ends_the_run(tmp_path):
    task = _Task(1000)
    looking, _ = watch(tmp_path, task, epochs=100, stop_when_copying=True)
    looking.look(_Model(), RunProgress(step=33, epoch=33, ended="steps"), None)
    assert task.looks == 1


def test_samples_that_cannot_be_measured_are_said_once(tmp_path):
    told = []
    task = SimpleNamespace(measure_samples=lambda model, count, seed: None)
    config = TrainConfig("songs", str(tmp_path), stop_when_copying=True)
    looking = CopyWatch(task, config, 3, Run(tmp_path), [], told.append)
    assert not any(looking.look(_Model(), RunProgress(step=i, epoch=i), None) for i in range(3))
    assert len(told) == 1


def test_without_the_option_looks_take_a_small_share_of_the_time_and_end_nothing(tmp_path):
    task = _Task(1)
    looking, _ = watch(tmp_path, task)
    assert not looking.look(_Model(), RunProgress(step=1, seconds=10.0), None)
    assert task.looks == 0
    progress = RunProgress(step=9, seconds=300.0)
    assert not looking.look(_Model(), progress, None)
    assert (task.looks, progress.ended) == (1, "")
