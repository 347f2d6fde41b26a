"""Adapters that change nothing are named wherever a model is opened with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from session_helpers import RememberingReporter

from musiclora.cli import main
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.evaluation.scores import Gain
from musiclora.jobs import train
from musiclora.symbolic.model import open_model
from musiclora.training.result import TrainResult
from musiclora.training.run_folder import RunProgress


def scale_update(folder: Path, factor: float) -> None:
    """Multiply all matrices B of an adapter folder."""
    path = folder / "adapter_model.safetensors"
    arrays = read_safetensors(path)
    scaled = {k: (v * np.float32(factor) if "lora_B" in k else v) for k, v in arrays.items()}
    path.unlink()
    write_safetensors(path, scaled)


@pytest.fixture
def adapter(own_run, tmp_path):
    return tmp_path / "run" / "adapter-best"


@pytest.mark.parametrize(
    ("factor", "strength", "said"),
    [
        (1.0, "", ""),
        (1e-25, "", "too small"),
        (1.0, ":0", "at strength 0 an adapter changes nothing"),
        (0.0, "", "are zero"),
    ],
    ids=["trained", "too small an update", "strength 0", "zero"],
)
def test_an_adapter_without_effect_is_said(adapter, any_backend, factor, strength, said):
    scale_update(adapter, factor)
    opened = open_model(None, [f"{adapter}{strength}"], any_backend)
    found = [note for note in opened.notes if "does not change" in note or "changes nothing" in note]
    assert len(found) == bool(said)
    assert all(said in note for note in found)
    batch = {"tokens": np.arange(8, dtype=np.int32)[None], "loss_mask": np.arange(8)[None] > 0}
    adapted = opened.model.loss(batch).total
    opened.model.set_adapter(False)
    assert (adapted != opened.model.loss(batch).total) == (not said), "the probe must leave the adapter enabled"


def test_fusing_and_blending_an_adapter_at_strength_0_says_so(adapter, any_backend, tmp_path):
    fused = CliRunner().invoke(
        main,
        ["fuse", "--adapter-dir", f"{adapter}:0", "--output-dir", str(tmp_path / "fused"), "--backend", any_backend],
    )
    blended = CliRunner().invoke(main, ["blend", f"{adapter}:0", f"{adapter}:1", str(tmp_path / "both")])
    for done in (fused, blended):
        assert done.exit_code == 0, done.stderr
        assert done.stderr.count("at strength 0 an adapter changes nothing") == 1


def test_a_run_whose_adapter_changes_no_loss_says_so():
    gain = Gain(0.0, None, None, 2, "bits a note", ((0.0, 9.0), (0.0, 8.0)))
    result = TrainResult(Path("r"), "torch", None, None, gain, {"m": 1e-30}, RunProgress(step=3))
    assert any("nothing was learnt" in line for line in result.lines())


@pytest.mark.slow
def test_the_trained_parameters_are_said_at_the_start_and_at_the_resume(config):
    for epochs in (1, 2):
        reporter = RememberingReporter()
        train(config(epochs=epochs), reporter)
        assert any("parameters of the adapter are trained" in line for line in reporter.said)
