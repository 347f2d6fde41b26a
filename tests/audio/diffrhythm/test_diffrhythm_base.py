"""Warning about a base that does not know the recordings, with the advice on its causal switch."""

from __future__ import annotations

import json

import numpy as np
import pytest

from musiclora.audio.diffrhythm.base import check_base_loss
from musiclora.backends.base import LossSum


def batch(time, frames=4000):
    rng = np.random.default_rng(0)
    return {
        "latents": rng.standard_normal((1, frames, 4)).astype(np.float32),
        "noise": rng.standard_normal((1, frames, 4)).astype(np.float32),
        "time": np.array([time], np.float32),
        "valid": np.ones((1, frames), bool),
    }


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


def test_a_base_that_knows_more_than_the_baseline_is_accepted(folder):
    check = warned(folder, {False: 1.2, True: 0.1})
    assert check.is_known
    assert not check.warning


def test_where_the_other_causal_switch_is_better_that_is_said(folder):
    text = warned(folder, {False: 2.4, True: 0.9}).warning
    assert "causal switch on its loss is 0.900" in text
    assert "convert it again with --causal" in text


def test_where_neither_switch_helps_the_warning_names_what_may_be_wrong(folder):
    text = warned(folder, {False: 2.4, True: 2.3}).warning
    assert "no better than without hearing them (loss 2.400, guess 1.996)" in text
    assert "codec" in text
    assert "--causal" not in text
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_latents_of_too_loud_recordings_are_named_as_the_cause_not_the_base_or_its_switch(folder):
    # Latents of a root mean square of 20, as loud music gives with the bundled codec; its usual one is 1.
    loud = {**batch(0.5), "latents": batch(0.5)["latents"] * 20}
    check = check_base_loss("base", folder, 321.0, [loud], lambda path: pytest.fail("loaded with the other switch"))
    assert not check.is_known
    assert "20 times as large as the codec's usual ones: the recordings are too loud" in check.warning
    assert "--loudness" in check.warning
    assert "causal" not in check.warning
