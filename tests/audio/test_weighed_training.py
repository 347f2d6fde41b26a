"""A run on recordings with --weigh songs: plan, steps and record."""

from __future__ import annotations

import json

import pytest
import toy_audio
from session_helpers import RememberingReporter

from musiclora.jobs import train
from musiclora.training.config import TrainConfig


@pytest.mark.slow
def test_a_weighed_run_on_recordings_takes_the_planned_steps_and_states_its_weights(any_backend, tmp_path):
    base = toy_audio.write_base(tmp_path / "tiny")
    data = toy_audio.write_latents(tmp_path / "walks", base)
    options = {"max_seq_len": 24, "batch_size": 4, "epochs": 3, "lora_r": 2, "val_split": 0.3, "weigh": "songs"}
    out = RememberingReporter()
    config = TrainConfig(str(data), str(tmp_path / "run"), str(base), backend=any_backend, **options)
    result = train(config, out)
    meta = json.loads((result.run_dir / "training_meta.json").read_text())
    assert meta["weigh"] == "songs"
    assert any(line.startswith("plan: 3 epochs of ") and f"= {meta['steps']} steps" in line for line in out.said)
    assert any(line.startswith("      --weigh songs: each recording gives about ") for line in out.said)
    card = (result.run_dir / "adapter-best" / "README.md").read_text()
    assert "* in training each of the recordings counted the same, whatever its length\n" in card
