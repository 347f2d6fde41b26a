"""Cross-validation over songs: each song is held out once, and the run on all songs takes the folds' steps."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from session_helpers import RememberingReporter, adapter, equal

from musiclora.errors import ConfigError, DataError, TrainingError
from musiclora.jobs import open_session, train
from musiclora.training.fold_summary import FoldResult, FoldSummary, note_nothing_held_out
from musiclora.training.folds import RESULT
from musiclora.training.loop import Loop


def _fold(gain, best_step, songs=3):
    return FoldResult(tuple((gain * 10, 10.0) for _ in range(songs)), "bits a note", 2.0, 1.9, best_step, 20, 9)


def test_the_summary_has_mean_spread_and_median_steps():
    summary = FoldSummary((_fold(0.1, 4), _fold(0.2, 9), _fold(0.3, 30)))
    assert summary.mean == pytest.approx(0.2)
    assert summary.spread == pytest.approx(0.1)
    assert summary.steps == 9
    assert summary.gain.songs == 9
    assert summary.gain.verdict == "gained"


def test_every_song_is_held_out_by_one_fold_and_has_no_relative_in_training(config):
    sessions = [open_session(config(f"{k}/folds/{k}", folds=3, fold=k)) for k in (1, 2, 3)]
    every = {p.name for p in sessions[0].task.songs.train} | {p.name for p in sessions[0].task.songs.held_out}
    held = [p.name for s in sessions for p in s.task.songs.held_out]
    assert sorted(held) == sorted(every)
    for session in sessions:
        assert not {p.name for p in session.task.songs.train} & {p.name for p in session.task.songs.held_out}


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"val_split": 0.0}, ["no recordings are held out (--val-split 0)"]),
        ({"val_split": 0.0, "folds": 2}, ["no recordings are held out: the folds have measured each of them"]),
        ({"val_split": 0.0, "folds": 2, "fold": 1}, []),
        ({"val_split": 0.1}, []),
    ],
    ids=["all", "after folds", "fold", "split"],
)
def test_a_run_that_holds_out_nothing_says_why(config, options, note):
    assert note_nothing_held_out(config(**options), "recordings") == note


@pytest.fixture(scope="module")
def run_with_folds(config_in, tmp_path_factory):
    """Train two folds and the run on all songs; return its settings, its result and what was said."""
    config, reporter = config_in(tmp_path_factory.mktemp("folds"), folds=2), RememberingReporter()
    return SimpleNamespace(config=config, result=train(config, reporter), said=reporter.said)


@pytest.mark.slow
def test_a_run_with_folds_states_them_and_takes_their_steps(run_with_folds):
    result = run_with_folds.result
    # The last run said "(--val-split 0)", which nobody had given.
    assert "no songs are held out: the folds have measured each of them" in run_with_folds.said
    assert not [line for line in run_with_folds.said if "--val-split" in line]
    steps = json.loads((result.run_dir / "folds" / "1" / RESULT).read_text())["best_step"]
    other = json.loads((result.run_dir / "folds" / "2" / RESULT).read_text())["best_step"]
    assert result.progress.step == max(1, round((steps + other) / 2))
    assert result.gain is None
    assert result.verdict is not None
    assert result.verdict.headline != "no verdict, no songs were held out"
    meta = json.loads((result.run_dir / "training_meta.json").read_text())
    record = json.loads((result.run_dir / "adapter-best" / "musiclora.json").read_text())
    assert meta["folds"] == record["folds"] == result.as_json()["folds"]
    assert meta["folds"]["count"] == 2
    assert meta["songs_held_out"] == 0
    assert "cross-validation over songs in 2 folds" in (result.run_dir / "adapter-best" / "README.md").read_text()
    assert "fold 2" in result.report.read_text()
    reporter = RememberingReporter()
    assert train(run_with_folds.config, reporter).already_finished
    assert any("steps that its folds chose" in line for line in reporter.said)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 14], ids=["first fold", "later run"])
def test_a_run_with_folds_stopped_anywhere_ends_as_an_unbroken_one(config, run_with_folds, monkeypatch, steps):
    inner, seen = Loop._run_step, []

    def stop(loop, batches):
        if len(seen) == steps:
            loop.save()
            raise KeyboardInterrupt
        seen.append(1)
        inner(loop, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_run_step", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config("broken", folds=2))
    train(config("broken", folds=2))
    whole, broken = run_with_folds.result.run_dir, Path(config("broken").output_dir)
    for part in (".", "folds/1", "folds/2"):
        assert equal(adapter(whole / part), adapter(broken / part))
    assert (whole / "folds/2" / RESULT).read_text() == (broken / "folds/2" / RESULT).read_text()


def test_more_folds_than_songs_are_refused_and_nothing_is_left(config):
    with pytest.raises(DataError, match="--folds 99"):
        train(config(folds=99))
    assert not Path(config().output_dir).exists()


def test_folds_without_held_out_songs_are_refused(config):
    with pytest.raises(ConfigError, match="--val-split 0"):
        train(config(folds=2, val_split=0.0))
    with pytest.raises(ConfigError, match="--folds is 1"):
        config(folds=1)


@pytest.mark.slow
def test_a_run_without_folds_is_not_given_any_later(config):
    train(config(max_steps=2))
    with pytest.raises(TrainingError, match="without folds"):
        train(config(folds=2))


def test_few_songs_are_told_of_folds(config):
    reporter = RememberingReporter()
    session = open_session(config(), reporter)
    few = sum(session.task.count_songs()) <= 20
    assert any("--folds" in line for line in reporter.said) == few
