"""Both backends together, and vanilla PEFT: the same run, the same adapter, the same logits."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tolerance
from require import require

from musiclora.backends.base import FAMILIES
from musiclora.backends.registry import BACKENDS, get_backend
from musiclora.conversion.adapter import convert_adapter
from musiclora.conversion.model import convert_model
from musiclora.convert.adapters.lora import state_shapes
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, read_checkpoint, write_checkpoint
from musiclora.jobs import train
from musiclora.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("plain_pictures")

# What is promised for twenty steps: a pass is off by 1e-5 of its logits at most, which AdamW may enlarge tenfold.
LOSS_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def runs(both_backends, tiny_base, tunes, tmp_path_factory):
    """The same twenty steps on every backend."""
    root = tmp_path_factory.mktemp("crossing")
    results = {}
    for name in BACKENDS:
        results[name] = train(
            TrainConfig(
                data_dir=str(tunes),
                output_dir=str(root / name),
                model=str(tiny_base),
                backend=name,
                max_seq_len=128,
                batch_size=2,
                grad_accum_steps=2,
                max_steps=20,
                lr=5e-3,
                lora_r=4,
                lora_dropout=0.0,
                val_split=0.25,
                num_workers=1,
            )
        )
    return results


def losses(result):
    rows = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    return np.array([row["loss"] for row in rows if "lr" in row])


@pytest.mark.slow
def test_twenty_steps_give_the_same_losses_on_both_backends(runs):
    mlx, torch = losses(runs["mlx"]), losses(runs["torch"])
    assert len(mlx) == 20
    assert torch[-1] < torch[0] - 0.05
    np.testing.assert_allclose(mlx, torch, atol=LOSS_TOLERANCE, rtol=0)
    assert runs["mlx"].after.loss == pytest.approx(runs["torch"].after.loss, abs=LOSS_TOLERANCE)


@pytest.fixture
def batch(rng):
    tokens = rng.integers(3, 285, (2, 60)).astype(np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[:, 0] = False
    return {"tokens": tokens, "loss_mask": mask}


@pytest.fixture
def rng():
    return np.random.default_rng(4)


SHAPES = {
    "head of 4, wide mlp": Gpt2Config(31, 24, 12, 2, 3, 48),
    "narrow mlp, its own epsilon": Gpt2Config(7, 20, 8, 3, 2, 24, layer_norm_epsilon=1e-3),
    "square everywhere": Gpt2Config(16, 16, 16, 2, 1, 16, activation_function="gelu_pytorch_tanh"),
    "exact gelu": Gpt2Config(19, 20, 24, 1, 4, 96, activation_function="gelu"),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layout", ["hf", "mlx"])
def test_transformers_and_both_backends_give_the_same_logits(both_backends, shape, layout, rng, tmp_path):
    import torch
    from transformers import GPT2LMHeadModel

    tensors = {n: rng.standard_normal(s).astype(np.float32) * 0.5 for n, s in shape.tensor_shapes().items()}
    for name in ("hf", "mlx"):
        write_checkpoint(tmp_path / name, shape, tensors, name)
    tokens = rng.integers(0, shape.vocab_size, (3, shape.n_positions)).astype(np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[:, 0] = False
    with torch.inference_mode():
        model = GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
        reference = model(torch.from_numpy(tokens).long()).logits.numpy()
    for name in BACKENDS:
        found = get_backend(name).load(FAMILIES["symbolic"], tmp_path / layout)
        values = found.logits({"tokens": tokens, "loss_mask": mask})
        tolerance.assert_near(values, reference, tolerance.logits(reference), name)


@pytest.mark.slow
def test_mlx_lm_with_a_converted_model_and_adapter_agrees_with_both_backends(runs, tiny_base, batch, tmp_path):
    mx, utils = require("mlx.core"), require("mlx_lm.utils")
    from mlx_lm.tuner.utils import load_adapters

    config = read_checkpoint(tiny_base).config
    wide = dataclasses.replace(config, n_inner=4 * config.n_embd)  # mlx-lm knows no other width
    write_checkpoint(tmp_path / "base", wide, fresh_tensors(wide, 2), "hf")
    spec = read_peft(runs["mlx"].run_dir / "adapter-best").spec
    rng = np.random.default_rng(1)
    shapes = state_shapes(spec, wide.linear_shapes())
    state = {n: rng.standard_normal(s).astype(np.float32) * 0.1 for n, s in shapes.items()}
    write_peft(tmp_path / "adapter", spec, state, base_model="base")
    convert_model(str(tmp_path / "base"), tmp_path / "mlx", "mlx")
    convert_adapter(str(tmp_path / "adapter"), tmp_path / "theirs", "mlx-lm", str(tmp_path / "base"))
    model = load_adapters(utils.load_model(tmp_path / "mlx", strict=True)[0], str(tmp_path / "theirs")).eval()
    reference = np.array(model(mx.array(batch["tokens"])))
    for name in BACKENDS:
        values = logits(name, tmp_path / "mlx", tmp_path / "adapter", batch)
        tolerance.assert_near(values, reference, tolerance.logits(reference), name)


def logits(name, base, adapter, batch):
    found = read_peft(adapter)
    model = get_backend(name).load(FAMILIES["symbolic"], base)
    model.inject_adapter(found.spec, found.state)
    return model.logits(batch)


@pytest.mark.parametrize("trained_on", BACKENDS)
def test_an_adapter_gives_the_same_logits_in_both_backends_and_in_vanilla_peft(
    runs, trained_on, tiny_base, batch, tmp_path
):
    from peft import PeftModel
    from transformers import GPT2LMHeadModel

    adapter = tmp_path / "adapter"
    shutil.copytree(runs[trained_on].run_dir / "adapter-best", adapter)
    found = {name: logits(name, tiny_base, adapter, batch) for name in BACKENDS}
    import torch

    model = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(tiny_base), adapter).eval()
    with torch.inference_mode():
        reference = model(torch.from_numpy(batch["tokens"]).long()).logits.numpy()
        with model.disable_adapter():
            base = model(torch.from_numpy(batch["tokens"]).long()).logits.numpy()
    limit = tolerance.logits(reference)
    assert np.abs(reference - base).max() > 100 * limit  # the adapter does something
    for name, values in found.items():
        tolerance.assert_near(values, reference, limit, name)
