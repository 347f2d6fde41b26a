"""Learning curve: nested shares, a verdict only where the spread carries it, exact resume."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from session_helpers import RememberingReporter

from musiclora.errors import ConfigError, DataError, TrainingError
from musiclora.jobs import learning_curve, open_session
from musiclora.training import learning_curve as module
from musiclora.training.fold_summary import FoldResult
from musiclora.training.learning_curve import PICTURE, RECORD, SHARES, LearningCurve, Point, draw_curve
from musiclora.training.loop import Loop


def _curve(*gains):
    points = tuple(Point(share, 4 * share, seeds) for share, seeds in zip(SHARES, gains, strict=True))
    return LearningCurve(points, "bits a note", Path("out"))


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((0.20, 0.21, 0.19), (0.30, 0.31, 0.29), "help"),
        ((0.300, 0.310, 0.290), (0.301, 0.310, 0.291), "hardly help"),
        ((0.20, 0.30, 0.10), (0.30, 0.25, 0.20), "unknown"),
        ((0.20,), (0.30,), "unknown"),
        ((0.20, 0.21), (0.30, 0.31), "unknown"),
        ((-0.1, -0.11, -0.1), (-0.1, -0.11, -0.1), "unknown"),
    ],
    ids=["a clear gain", "none", "seeds differ", "one seed", "two seeds", "nothing gained at all"],
)
def test_the_verdict_is_said_only_where_the_spread_carries_it(before, after, verdict):
    assert _curve((0.1,) * len(before), (0.15,) * len(before), before, after).more_songs == verdict


def test_the_interval_is_student_t_of_paired_differences():
    curve = _curve((0.1,) * 3, (0.1,) * 3, (0.1, 0.2, 0.3), (0.2, 0.4, 0.6))
    assert curve.last_gain() == pytest.approx((0.2, 0.2 - 4.303 * 0.1 / 3**0.5, 0.2 + 4.303 * 0.1 / 3**0.5))


@pytest.mark.parametrize(
    ("gains", "from_zero"),
    [
        (((11.04,), (11.12,), (11.35,), (11.41,)), False),  # all four looked the same beside a base at zero
        (((0.1, 0.05), (0.15, 0.1), (0.18, 0.15), (0.2, 0.19)), True),
        (((-0.1,), (-0.1,), (-0.1,), (-0.1,)), True),
    ],
    ids=["far from the base", "near it", "below it"],
)
def test_the_picture_shows_the_differences_and_the_base_where_it_is_near(gains, from_zero):
    axis = draw_curve(_curve(*gains)).axes[0]
    low, high = axis.get_ylim()
    assert (low <= 0 <= high) == from_zero
    assert ("the base" in [text.get_text() for text in axis.get_legend().get_texts()]) == from_zero
    assert ("the base: 0" in axis.get_ylabel()) == (not from_zero)
    assert [text.get_text() for text in axis.texts] == [f"{sum(g) / len(g):.3f}" for g in gains]
    assert axis.get_title()[0].isupper()


def test_a_larger_share_holds_every_smaller_one_and_the_held_out_songs_stay(config):
    def songs(share):
        task = open_session(config(f"{share}/a/b", train_share=share, subset_seed=3)).task
        return {p.name for p in task.songs.train}, {p.name for p in task.songs.held_out}

    parts = [songs(share) for share in SHARES]
    for (smaller, held), (larger, other) in itertools.pairwise(parts):
        assert smaller < larger
        assert held == other
    assert parts[-1][0] == {p.name for p in open_session(config("all")).task.songs.train}


@pytest.mark.slow
def test_a_curve_stopped_goes_on_and_ends_as_an_unbroken_one(config, monkeypatch):
    short = {"max_steps": 2}
    whole = learning_curve(config("whole", **short), seeds=1)
    inner, seen = Loop._run_step, []

    def stop(loop, batches):
        if len(seen) == 3:
            loop.save()
            raise KeyboardInterrupt
        seen.append(1)
        inner(loop, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_run_step", stop)
        with pytest.raises(KeyboardInterrupt):
            learning_curve(config("broken", **short), seeds=1)
    broken = learning_curve(config("broken", **short), seeds=1)
    assert broken.points == whole.points
    assert json.loads((broken.folder / RECORD).read_text())["more_songs"] == "unknown"
    assert (broken.folder / PICTURE).read_bytes().startswith(b"\x89PNG")
    with monkeypatch.context() as patch:  # nothing is trained twice
        patch.setattr(Loop, "_run_step", stop)
        assert learning_curve(config("broken", **short), seeds=1).points == whole.points
    with pytest.raises(TrainingError, match="--lr was"):
        learning_curve(config("broken", lr=1e-3, **short), seeds=1)


def test_a_curve_stopped_in_its_second_seed_leaves_the_picture_of_the_first(config, monkeypatch):
    # Hours of training left nothing to look at until the last of them was done.
    gains = iter((0.4, 0.3, 0.2, 0.1, 0.5))

    def fold(session):
        if (gain := next(gains)) == 0.5:
            raise KeyboardInterrupt
        return FoldResult(((gain, 1.0),), "bits a note", 2.0, 1.9, 4, 20, 9)

    monkeypatch.setattr(module, "run_fold", fold)
    out = RememberingReporter()
    with pytest.raises(KeyboardInterrupt):
        learning_curve(config(), 3, out)
    record = json.loads((Path(config().output_dir) / RECORD).read_text())
    assert [point["gains"] for point in record["points"]] == [[0.1], [0.2], [0.3], [0.4]]
    assert (Path(config().output_dir) / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert "training 1 of 12: gain 0.4000 bits a note" in out.said


def test_what_gives_no_curve_is_refused(config, monkeypatch):
    with pytest.raises(ConfigError, match="--seeds is 0"):
        learning_curve(config(), seeds=0)
    with pytest.raises(ConfigError, match="--val-split 0"):
        learning_curve(config(val_split=0.0))
    monkeypatch.setattr(module, "LEAST_SONGS", 99)
    with pytest.raises(DataError, match="needs at least 99"):
        learning_curve(config())
    assert not Path(config().output_dir).exists()
