"""Runs with --weigh songs: what they record, exact resume, the unchanged held-out loss, and older runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from refusal import refused
from session_helpers import RememberingReporter, adapter, equal, stop_after

from musiclora.cli import main
from musiclora.errors import TrainingError
from musiclora.jobs import open_session, train
from musiclora.training.config import resolve_config


@pytest.mark.slow
def test_a_weighed_run_resumes_exactly_and_states_its_weights(config, tmp_path):
    out = RememberingReporter()
    whole = train(config("whole", weigh="songs", transpose=2), out)
    stop_after(open_session(config("broken", weigh="songs", transpose=2)), 2)
    train(config("broken", weigh="songs", transpose=2))
    assert equal(adapter(tmp_path / "whole"), adapter(tmp_path / "broken"))
    assert any(line.startswith("      --weigh songs: each song gives about ") for line in out.said)
    assert json.loads((whole.run_dir / "training_meta.json").read_text())["weigh"] == "songs"
    assert json.loads((whole.run_dir / "adapter-best" / "musiclora.json").read_text())["weigh"] == "songs"
    line = "* in training each of the songs counted the same, whatever its length\n"
    assert line in (whole.run_dir / "adapter-best" / "README.md").read_text()
    planned = json.loads((whole.run_dir / "training_meta.json").read_text())
    rows = [json.loads(text) for text in (whole.run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = sum("lr" in row for row in rows)
    assert steps == planned["steps"]
    assert any(f"= {steps} steps" in line for line in out.said)


def test_held_out_songs_are_scored_as_without_weights(config):
    plain, weighed = (open_session(config(name, weigh=name)) for name in ("tokens", "songs"))
    assert plain.task.hash_data() == weighed.task.hash_data()
    for lay_out in ("held_out_batches", "song_batches"):
        extra = (4,) if lay_out == "held_out_batches" else ()
        first, second = (getattr(s.task, lay_out)(s.config, *extra) for s in (plain, weighed))
        flat = [[b for song in part for b in ([song] if isinstance(song, dict) else song)] for part in (first, second)]
        assert len(flat[0]) == len(flat[1]) > 0
        assert all(np.array_equal(a[k], b[k]) for a, b in zip(*flat, strict=True) for k in a)
    assert plain.task.measure_epoch(plain.config)[0] == weighed.task.measure_epoch(weighed.config)[0]


@pytest.mark.slow
def test_a_run_from_before_the_option_resumes_and_no_other_weights_may(config, tmp_path):
    stop_after(open_session(config()), 2)
    path = tmp_path / "run" / "config.toml"
    text = path.read_text()
    assert 'weigh = "tokens"\n' in text
    path.write_text(text.replace('weigh = "tokens"\n', ""))
    with pytest.raises(TrainingError, match=r"--weigh was 'tokens' \(the default\), is 'songs'"):
        train(config(weigh="songs"))
    assert train(config()).progress.ended == "epochs"


def test_other_weights_are_refused_in_one_line(tunes, tmp_path):
    found = CliRunner().invoke(
        main, ["train", "--data-dir", str(tunes), "--output-dir", str(tmp_path / "run"), "--weigh", "bars"]
    )
    assert "--weigh is 'bars'; there are tokens, songs" in refused(found)
    assert not (tmp_path / "run").exists()


def test_weigh_is_read_from_the_command_line_and_from_a_file(tmp_path):
    (tmp_path / "c.toml").write_text('weigh = "songs"\n')
    options = {"data_dir": "songs", "output_dir": "run"}
    assert resolve_config(options, None, tmp_path / "c.toml").weigh == "songs"
    assert resolve_config({**options, "weigh": "tokens"}, None, tmp_path / "c.toml").weigh == "tokens"
