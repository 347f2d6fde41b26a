"""Few recordings: cross-validation, the learning curve, and adapters without effect."""

from __future__ import annotations

import pytest
import toy_audio

from musiclora.audio.model import open_flow
from musiclora.jobs import learning_curve, open_session, train
from musiclora.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.fixture
def config(backend_name, tmp_path):
    base = toy_audio.write_base(tmp_path / "tiny")
    latents = toy_audio.write_latents(tmp_path / "walks", base)

    def make(name="run", **changes):
        options = {"data_dir": str(latents), "output_dir": str(tmp_path / name), "model": str(base)}
        sizes = {"max_seq_len": 24, "batch_size": 4, "epochs": 2, "lr": 5e-3, "lora_r": 2, "val_split": 0.3, "seed": 5}
        return TrainConfig(**{**options, **sizes, "backend": backend_name, **changes})

    return make


def test_an_audio_adapter_without_effect_is_said(config):
    adapter = train(config(max_steps=2)).run_dir / "adapter-best"
    backend = config().backend
    trained, without = (
        open_flow(None, [f"{adapter}{strength}"], backend, with_codec=False).notes for strength in ("", ":0")
    )
    assert not any("change" in note for note in trained)
    assert any("at strength 0 an adapter changes nothing" in note for note in without)


@pytest.mark.slow
def test_recordings_are_cross_validated_and_the_folds_choose_the_steps(config):
    result = train(config(folds=2, max_steps=3))
    assert result.folds is not None
    assert result.folds.gain.songs == sum(open_session(config("x")).task.count_songs())
    assert result.progress.step == result.folds.steps
    assert result.run_dir.joinpath("folds", "2", "adapter-best").is_dir()


@pytest.mark.slow
def test_recordings_have_a_learning_curve(config):
    curve = learning_curve(config("curve", max_steps=2), seeds=1)
    assert curve.unit == "loss"
    assert [p.songs for p in curve.points] == sorted(p.songs for p in curve.points)
    assert curve.points[0].songs < curve.points[-1].songs
