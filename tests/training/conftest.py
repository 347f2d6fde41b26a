"""Settings of a small run, and its pictures."""

from __future__ import annotations

import functools
import shutil

import pytest

from musiclora.jobs import train
from musiclora.training.config import TrainConfig


@pytest.fixture(scope="session")
def config_in(tiny_base, tunes, any_backend):
    """Return a function that makes the settings of a run in a folder."""

    def make(folder, name="run", **changes):
        settings = {
            "data_dir": str(tunes),
            "output_dir": str(folder / name),
            "model": str(tiny_base),
            "backend": any_backend,
            "max_seq_len": 128,
            "batch_size": 4,
            "grad_accum_steps": 2,
            "epochs": 2,
            "lr": 5e-3,
            "lora_r": 4,
            "lora_dropout": 0.1,
            "val_split": 0.25,
            "num_workers": 1,
            "seed": 5,
        }
        return TrainConfig(**{**settings, **changes})

    return make


@pytest.fixture
def config(config_in, tmp_path):
    return functools.partial(config_in, tmp_path)


@pytest.fixture(scope="session")
def finished_run(config_in, tmp_path_factory):
    """Train the default run once; tests that write into its folder take `own_run`."""
    return train(config_in(tmp_path_factory.mktemp("finished")))


@pytest.fixture
def own_run(finished_run, tmp_path):
    """Copy the finished run to the place that `config()` names, and return its result."""
    shutil.copytree(finished_run.run_dir, tmp_path / "run")
    return finished_run


@pytest.fixture(scope="module", autouse=True)
def _pictures(request):
    """Draw real pictures only where they are tested."""
    if request.path.stem not in ("test_run_report", "test_learning_curve"):
        request.getfixturevalue("plain_pictures")
