"""Copies in audio training runs: samples against the training recordings, on latents."""

from __future__ import annotations

import json

import numpy as np
import pytest
import toy_audio

from musiclora.audio.training_copies import TrainingAudioCopies
from musiclora.audio.windows import Recording
from musiclora.jobs import train
from musiclora.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("plain_pictures")

RATE = 44100 / 2048  # latent frames a second


def recording(seed: int, frames: int = 300) -> Recording:
    walk = np.random.default_rng(seed).standard_normal((frames, 6)).cumsum(0).astype(np.float32)
    return Recording(f"r{seed}", f"r{seed}", f"{seed:064d}", walk)


def test_samples_that_repeat_recordings_are_copies():
    copies = TrainingAudioCopies([recording(i) for i in range(6)], [], 200, RATE)
    samples = [recording(i).latents[40 + i : 240 + i] for i in range(3)] + [recording(50).latents[:200]]
    found = copies.measure_samples(lambda frames: samples)
    assert (found.copied, found.is_copying) == (3, True)
    assert found.similarities[0] <= found.threshold < found.similarities[1]
    assert found.share == pytest.approx(0.75, abs=0.05)  # the last patch may not fill a sample
    assert found.as_row()["samples_copied"] == 3
    assert found.line().startswith("3 of 4 samples copy a training recording; similarity ")
    assert set(found.as_json()) >= {"samples", "copied", "similarity", "threshold", "unseen_similarity"}


def test_samples_of_their_own_are_not_copies():
    copies = TrainingAudioCopies([recording(i) for i in range(6)], [recording(i) for i in range(20, 24)], 200, RATE)
    samples = [recording(i).latents[:200] for i in range(60, 68)]
    found = copies.measure_samples(lambda frames: samples)
    assert (found.copied, found.share) == (0, 0)


@pytest.mark.parametrize("case", ["short samples", "short recordings"])
def test_what_is_too_short_is_not_measured(case):
    frames = 30 if case == "short samples" else 200
    songs = [recording(i, 40 if case == "short recordings" else 300) for i in range(4)]
    asked: list[int] = []
    assert TrainingAudioCopies(songs, [], frames, RATE).measure_samples(lambda n: asked.append(n) or []) is None
    assert not asked


def test_run_states_copies_in_metrics_record_and_report(backend_name, tmp_path):
    base = toy_audio.write_base(tmp_path / "tiny", max_frames=96)
    latents = toy_audio.write_latents(tmp_path / "latents", base, frames=150)
    options = {"data_dir": str(latents), "output_dir": str(tmp_path / "run"), "model": str(base), "seed": 5}
    result = train(
        TrainConfig(**options, backend=backend_name, epochs=2, lora_r=2, val_split=0.3, stop_when_copying=True)
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    looks = [row for row in rows if "samples" in row]
    assert looks
    assert all({"samples_copied", "most_similarity", "copied_share"} <= set(row) for row in looks)
    assert any("samples copy a training recording" in line for line in result.lines())
    record = json.loads((tmp_path / "run" / "adapter-best" / "musiclora.json").read_text())
    assert record["copies"]["samples"] == 8
    page = (tmp_path / "run" / "report.html").read_text()
    section = page[page.index("Does it copy?") :]
    assert "highest similarity" in section
    assert f"{record['copies']['copied']} of 8 samples copy a training recording" in section
