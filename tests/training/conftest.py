"""Settings of a small run."""

from __future__ import annotations

import pytest

from musiclora.training.config import TrainConfig


@pytest.fixture
def config(tiny_base, tunes, any_backend, tmp_path):
    def make(name="run", **changes):
        settings = {
            "data_dir": str(tunes),
            "output_dir": str(tmp_path / name),
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
