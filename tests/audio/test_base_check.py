"""The warning about a base that does not know the recordings, and the guess it is measured by."""

from __future__ import annotations

import json

import numpy as np
import pytest

from musiclora.audio.base_check import check_base_loss, guess_loss
from musiclora.backends.base import LossSum


def batch(time, variance=1.0, seed=0, frames=4000):
    rng = np.random.default_rng(seed)
    return {
        "latents": (rng.standard_normal((1, frames, 4)) * variance**0.5).astype(np.float32),
        "noise": rng.standard_normal((1, frames, 4)).astype(np.float32),
        "time": np.array([time], np.float32),
        "valid": np.ones((1, frames), bool),
    }


@pytest.mark.parametrize("time", [0.1, 0.5, 0.8])
def test_the_guess_for_white_latents_is_the_best_that_is_possible(time):
    # v and x_t are jointly normal: the residual variance is var v - cov^2 / var x_t = 1 / (t^2 + (1 - t)^2).
    expected = 1 / (time**2 + (1 - time) ** 2)
    assert guess_loss([batch(time)]) == pytest.approx(expected, rel=0.02)  # 16,000 values: 1.1 % a deviation


@pytest.mark.parametrize("variance", [0.3, 1.0, 4.0])
def test_no_other_multiple_of_the_noisy_latents_does_better(variance):
    one = batch(0.3, variance)
    noisy, wanted = 0.3 * one["latents"] + 0.7 * one["noise"], one["latents"] - one["noise"]
    slope = (noisy * wanted).sum() / np.square(noisy).sum()
    assert guess_loss([one]) == pytest.approx(np.square(wanted - slope * noisy).mean(), rel=1e-3)


def test_frames_that_are_not_valid_do_not_count():
    whole = batch(0.4)
    longer = {**whole, "latents": np.pad(whole["latents"], ((0, 0), (0, 50), (0, 0)))}
    longer["noise"] = np.pad(whole["noise"], ((0, 0), (0, 50), (0, 0)), constant_values=9)
    longer["valid"] = np.pad(whole["valid"], ((0, 0), (0, 50)))
    assert guess_loss([longer]) == pytest.approx(guess_loss([whole]), rel=1e-6)


class Model:
    """A model whose loss depends on the causal switch of the folder it came from."""

    def __init__(self, folder, losses):
        self.value = losses[json.loads((folder / "config.json").read_text())["causal"]]

    def loss(self, batch):
        return LossSum(self.value * 10, 10)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": "diffrhythm", "causal": False}))
    (tmp_path / "base" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "base"


def warned(folder, losses):
    return check_base_loss("base", folder, losses[False], [batch(0.5)], lambda path: Model(path, losses))


def test_a_base_that_knows_more_than_the_guess_is_not_doubted(folder):
    assert warned(folder, {False: 1.2, True: 0.1}) is None


def test_where_the_other_causal_switch_is_better_that_is_said(folder):
    text = warned(folder, {False: 2.4, True: 0.9})
    assert "causal switch on its loss is 0.900" in text
    assert "convert it again with --causal" in text


def test_where_neither_switch_helps_the_warning_names_what_may_be_wrong(folder):
    text = warned(folder, {False: 2.4, True: 2.3})
    assert "no better than without hearing them (loss 2.400, guess 1.996)" in text
    assert "codec" in text
    assert "--causal" not in text
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
