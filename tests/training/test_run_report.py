"""Report of a run: one file with the verdict, what it rests on, the plan, the curve and the samples."""

from __future__ import annotations

import json
import re

import pytest
import toy_audio

from musiclora.jobs import train
from musiclora.training.config import TrainConfig


@pytest.fixture(scope="module")
def run(tiny_base, tunes, any_backend, tmp_path_factory):
    """Train a short run with samples; return its result, and what was said."""
    config = TrainConfig(
        data_dir=str(tunes),
        output_dir=str(tmp_path_factory.mktemp("report") / "run"),
        model=str(tiny_base),
        backend=any_backend,
        max_seq_len=128,
        max_steps=2,
        lora_r=4,
        val_split=0.25,
        num_workers=1,
        sample_every=1,
        batch_size=64,
    )
    return train(config)


def page_text(path):
    html = path.read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html))


def test_a_run_writes_a_report_that_needs_no_other_file(run):
    assert run.report == run.run_dir / "report.html"
    html = run.report.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert str(run.run_dir.parent) not in re.sub(r"<code>.*?</code>", "", html)  # in the commands to run next only
    text = page_text(run.report)
    assert "What the verdict rests on" in text
    assert "No verdict, the base does not know these songs" in text  # its weights are random
    assert "2 steps" in text
    assert "Held out: " in text
    assert "The tokens keep " in text
    assert text.count("no better than chance") == 1
    assert "a guess, which has" not in text  # the warning says it
    assert "trained parameters" in text
    assert html.count("<img") >= 3  # the curve, and piano rolls of base and adapted model
    assert "the base" in text
    assert "after epoch 1" in text


def test_the_number_of_trained_parameters_and_their_share_are_stored(run):
    meta = json.loads((run.run_dir / "training_meta.json").read_text())
    trained, every = run.parameters
    state = json.loads((run.run_dir / "adapter-best" / "adapter_config.json").read_text())
    assert state["r"] == 4
    assert meta["trained_parameters"] == trained > 0
    assert meta["trained_share"] == pytest.approx(trained / every, abs=1e-8)
    assert meta["base_check"]["loss"] > 0


def test_an_audio_run_writes_one_too(tmp_path, any_backend):
    toy_audio.write_base(tmp_path / "base")
    toy_audio.write_latents(tmp_path / "latents", tmp_path / "base", count=4)
    config = TrainConfig(
        data_dir=str(tmp_path / "latents"),
        output_dir=str(tmp_path / "run"),
        model=str(tmp_path / "base"),
        backend=any_backend,
        max_steps=2,
        lora_r=2,
    )
    text = page_text(train(config).report)
    assert "recordings" in text
    assert "squared error" not in text  # the unit is in the picture
    assert "songs" not in text


def test_the_report_shows_how_near_samples_are_to_the_songs(run):
    card = run.style
    assert card.counts["generated"] == card.counts["baseline"] == 8
    text = page_text(run.report)
    assert "Does it sound like them?" in text
    assert card.describe()[1:] in text
    assert run.as_json()["style"]["overlap"] == card.generated.overlap.value
    assert card.line() in run.lines()
