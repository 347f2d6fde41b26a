"""ACE-Step's pipeline folders, written by diffusers and read here, and the reverse."""

import warnings
from pathlib import Path
from typing import Any

import acestep_toys as toys
import numpy as np
import pytest
from require import require

from musiclora.convert.models.acestep import read_acestep, tensor_shapes
from musiclora.convert.models.acestep_config import AceStepConfig
from musiclora.convert.models.acestep_names import rename_attention

by_config = pytest.mark.parametrize("config", [toys.SMALL, toys.EVEN], ids=["xl", "with biases"])


def _pipeline(config: AceStepConfig) -> Any:
    diffusers = require("diffusers")
    transformer, encoder = toys.diffusers_models(config)
    return diffusers.AceStepPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        condition_encoder=encoder,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )


def _canonical(pipeline: Any) -> dict[str, np.ndarray]:
    """Name a pipeline's tensors by hand, apart from the tables under test."""
    encoder = {name: tensor.numpy() for name, tensor in pipeline.condition_encoder.state_dict().items()}
    found = {
        "silence_latent": encoder.pop("silence_latent")[0],
        "null_condition_emb": encoder.pop("null_condition_emb"),
    }
    found |= {f"encoder.{name}": array for name, array in encoder.items()}
    found |= {f"decoder.{name}": tensor.numpy() for name, tensor in pipeline.transformer.state_dict().items()}
    renamed = {}
    for name, array in found.items():
        for theirs, ours in (
            ("to_q", "q_proj"),
            ("to_k", "k_proj"),
            ("to_v", "v_proj"),
            ("to_out.0", "o_proj"),
            ("norm_q", "q_norm"),
            ("norm_k", "k_norm"),
            ("proj_in_conv", "proj_in.1"),
            ("proj_out_conv", "proj_out.1"),
        ):
            name = name.replace(f".{theirs}.", f".{ours}.")
        renamed[name] = array
    return renamed


@by_config
def test_a_folder_of_save_pretrained_is_read_bit_for_bit(config: AceStepConfig, tmp_path: Path) -> None:
    pipeline = _pipeline(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.save_pretrained(tmp_path / "p")
    checkpoint = read_acestep(tmp_path / "p")
    expected = _canonical(pipeline)
    assert {name: array.shape for name, array in expected.items()} == tensor_shapes(config)
    toys.assert_same(dict(checkpoint.tensors()), expected)
    for stack in ("decoder", "encoder", "layer_types", "patch_size", "sliding_window", "is_turbo", "model_version"):
        assert getattr(checkpoint.config, stack) == getattr(config, stack)


@by_config
def test_diffusers_loads_a_copy_and_keeps_its_settings(config: AceStepConfig, tmp_path: Path) -> None:
    diffusers = require("diffusers")
    tensors = toys.write_random(tmp_path / "p", config, "diffusers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = diffusers.AceStepPipeline.from_pretrained(
            tmp_path / "p", vae=None, text_encoder=None, tokenizer=None
        )
        toys.assert_same(_canonical(pipeline), tensors)
        assert pipeline.is_turbo is config.is_turbo
        pipeline.save_pretrained(tmp_path / "again")
    again = read_acestep(tmp_path / "again")
    assert again.config == config
    assert again.other_settings == {**toys.FURTHER, "attention_dropout": 0.0}
    toys.assert_same(dict(again.tensors()), tensors)


def test_the_names_of_adapted_modules_are_those_of_diffusers() -> None:
    torch = require("torch")
    transformer, _ = toys.diffusers_models(toys.SMALL)
    linear = {name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)}

    assert {rename_attention(name) for name in toys.SMALL.linear_shapes()} == linear
