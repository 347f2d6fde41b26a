"""`--report-to`: trackers are told what metrics.jsonl holds, once, and never end a training."""

from __future__ import annotations

import json
import os
import time

import pytest
from require import require
from session_helpers import RememberingReporter, stop_after

from musiclora.errors import ConfigError
from musiclora.jobs import open_session, train
from musiclora.reporting import trackers
from musiclora.reporting.trackers import parse_trackers
from musiclora.training.run_folder import TRACKED, Run
from musiclora.training.tracking import public_settings

VALUES = ("loss", "val_loss", "lr", "grad_norm", "tokens_per_second")


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Trackers write below the test's own folder, and reach no network."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name in list(os.environ):
        if name.startswith(("TRACKIO_SPACE", "TRACKIO_SERVER", "WANDB_API")):
            monkeypatch.delenv(name)


def recorded(run, name):
    """(step, value) of a column of metrics.jsonl."""
    return [(row["step"], row[name]) for row in Run(run).read_metrics() if name in row]


def stopped_and_resumed(config, name):
    """A run with samples, stopped at a step of its second epoch and resumed."""
    asked, out = config(report_to=name, epochs=2, sample_every=1), RememberingReporter()
    stop_after(open_session(asked, out), 3)
    train(asked, out)
    assert [line for line in out.said if "is told no more" in line] == []


@pytest.mark.slow
def test_tensorboard_holds_every_row_once_and_the_samples(config, tmp_path):
    require("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stopped_and_resumed(config, "tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"images": 0, "audio": 0, "scalars": 0}).Reload()
    for name in VALUES:
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in recorded(tmp_path / "run", name)]
    assert {"samples/base/roll", "samples/epoch-001/roll"} <= set(events.Tags()["images"])
    picture = events.Images("samples/epoch-001/roll")[0]
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    sound = tmp_path / "run" / "samples" / "epoch-001.wav"
    assert ("samples/epoch-001/sound" in events.Tags()["audio"]) == sound.is_file()


@pytest.mark.slow
def test_trackio_holds_every_row_once_and_the_samples(config, tmp_path):
    require("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    stopped_and_resumed(config, "trackio")
    (name,) = SQLiteStorage.get_runs("musiclora")
    assert name.startswith("run-")
    logs = SQLiteStorage.get_logs("musiclora", name)
    for column in VALUES:
        found = sorted((log["step"], log[column]) for log in logs if column in log)
        assert found == [(step, pytest.approx(value)) for step, value in recorded(tmp_path / "run", column)]
    assert any("samples/epoch-001/roll" in log for log in logs)
    settings = SQLiteStorage.get_run_config("musiclora", name)
    assert settings["lora_r"] == 4
    assert str(tmp_path) not in json.dumps(settings)


@pytest.mark.slow
def test_wandb_writes_its_files_offline(config, tmp_path):
    require("wandb")
    out = RememberingReporter()
    train(config(report_to="wandb", epochs=1), out)
    assert [line for line in out.said if "is told no more" in line] == []
    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    end = time.monotonic() + 60
    while b"val_loss" not in (content := log.read_bytes()):  # its own process writes after the run is finished
        assert time.monotonic() < end
        time.sleep(0.1)
    assert b"lora_r" in content
    assert str(tmp_path / "tunes").encode() not in content


class Broken:
    """A tracker that fails when it is told of the second step."""

    def __init__(self, run):
        self.told = []

    def log(self, step, values):
        self.told.append(step)
        if step == 2:
            raise OSError("the server\nis gone")

    def log_piece(self, step, name, roll, sound):
        raise AssertionError("never told again")

    def close(self):
        raise AssertionError("never told again")


def test_a_tracker_that_fails_is_one_warning_and_the_training_goes_on(config, tmp_path, monkeypatch):
    require("tensorboard")
    monkeypatch.setitem(trackers._OPENERS, "tensorboard", Broken)
    out = RememberingReporter()
    train(config(report_to="tensorboard", epochs=1), out)
    warnings = [line for line in out.said if "tensorboard" in line]
    assert warnings == [
        "warning: tensorboard failed and is told no more (OSError: the server is gone); metrics.jsonl has every row"
    ]
    assert Run(tmp_path / "run").read_progress().step > 2


def test_a_tracker_may_be_added_at_a_resume(config, tmp_path):
    require("tensorboard")
    stop_after(open_session(config(epochs=1)), 2)
    assert not (tmp_path / "run" / TRACKED).exists()
    train(config(epochs=1, report_to="tensorboard"))
    assert json.loads((tmp_path / "run" / TRACKED).read_text())["told"]["tensorboard"][0] > 2


def test_an_unknown_tracker_is_refused_before_the_songs_are_read(config, tmp_path):
    with pytest.raises(ConfigError, match="--report-to mlflow: there are trackio, tensorboard, wandb"):
        open_session(config(report_to="trackio,mlflow"))
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_installed_names_the_extra(config, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"wandb: it is not installed: pip install 'musiclora\[trackers\]'"):
        open_session(config(report_to="wandb"))


def test_names_are_split_and_each_is_taken_once():
    assert parse_trackers(" trackio, wandb,trackio,") == ("trackio", "wandb")
    assert parse_trackers(None) == ()


def test_folders_of_paths_are_nobody_s_business(config, tmp_path):
    settings = public_settings(config())
    assert settings["output_dir"] == "run"
    assert str(tmp_path) not in json.dumps(settings)
