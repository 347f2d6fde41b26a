"""Small ACE-Step models with random weights, in diffusers' classes and under the original's names."""

from __future__ import annotations

import re
import zlib
from typing import Any

import numpy as np

from musiclora.convert.models.acestep_config import FULL, SLIDING, AceStepConfig, StackConfig, alternating

# In the original's names, and in those of diffusers 0.42.
_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "o_proj": "to_out.0", "q_norm": "norm_q"}
_ATTENTION |= {"k_norm": "norm_k"}
CONFIGS = {
    # Heads side by side are wider than the model (60 and 48), three query heads share a key head.
    "rectangular": AceStepConfig(
        StackConfig(48, 80, 6, 2, 10),
        StackConfig(48, 80, 6, 2, 10),
        alternating(3),
        lyric_layers=2,
        timbre_layers=2,
        text_dim=20,
        latent_dim=6,
        sliding_window=3,
    ),
    # Patches of three frames, so that most lengths are padded; blocks in another order; biases; heads of 32 for 40.
    "odd": AceStepConfig(
        StackConfig(40, 56, 4, 4, 8),
        StackConfig(40, 56, 4, 4, 8),
        (FULL, SLIDING, SLIDING),
        lyric_layers=3,
        timbre_layers=1,
        text_dim=12,
        latent_dim=5,
        patch_size=3,
        sliding_window=2,
        rope_theta=10_000.0,
        attention_bias=True,
    ),
    # As in the XL models, the encoder is narrower than the transformer.
    "xl": AceStepConfig(
        StackConfig(64, 96, 8, 2, 8),
        StackConfig(32, 64, 4, 2, 8),
        alternating(2),
        lyric_layers=2,
        timbre_layers=2,
        text_dim=16,
        latent_dim=4,
        sliding_window=4,
    ),
}


def original_name(name: str) -> str:
    """The original's name, without prefix, of a tensor in diffusers' transformer or condition encoder."""
    for ours, theirs in _ATTENTION.items():
        name = re.sub(rf"(?<=attn\.){re.escape(theirs)}(?=\.|$)", ours, name)
    return name.replace("proj_in_conv", "proj_in.1").replace("proj_out_conv", "proj_out.1")


def random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values that depend on the name only, large enough that no part is close to linear."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    fan = np.prod(shape[1:]) if name.endswith(".weight") and len(shape) > 1 else 9
    if "proj_out.1.weight" in name:
        fan = shape[0]  # a transposed convolution has its inputs first
    value = rng.standard_normal(shape) * fan**-0.5
    return (value + (name.endswith(".weight") and len(shape) == 1)).astype(np.float32)


def _fill(module: Any, prefix: str) -> dict[str, np.ndarray]:
    """Give a module random weights; returns them under canonical names."""
    import torch

    found, state = {}, {}
    for name, value in module.state_dict().items():
        if name == "silence_latent":
            state[name] = value
            continue
        ours = name if name == "null_condition_emb" else prefix + original_name(name)
        found[ours] = random_tensor(ours, tuple(value.shape))
        state[name] = torch.from_numpy(found[ours])
    module.load_state_dict(state, strict=True)
    return found


def transformer(config: AceStepConfig) -> tuple[Any, dict[str, np.ndarray]]:
    """diffusers' transformer with random weights, and these under canonical names."""
    import acestep_diffusers  # needs torch, which this file's arrays do not

    model = acestep_diffusers.transformer(config)
    return model, _fill(model, "decoder.")


def condition_encoder(config: AceStepConfig) -> tuple[Any, dict[str, np.ndarray]]:
    """diffusers' condition encoder with random weights, and these under canonical names."""
    from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder

    stack = config.encoder
    model = AceStepConditionEncoder(
        hidden_size=stack.hidden,
        intermediate_size=stack.intermediate,
        text_hidden_dim=config.text_dim,
        timbre_hidden_dim=config.latent_dim,
        num_lyric_encoder_hidden_layers=config.lyric_layers,
        num_timbre_encoder_hidden_layers=config.timbre_layers,
        num_attention_heads=stack.heads,
        num_key_value_heads=stack.kv_heads,
        head_dim=stack.head_dim,
        rope_theta=config.rope_theta,
        attention_bias=config.attention_bias,
        rms_norm_eps=config.rms_norm_eps,
        sliding_window=config.sliding_window,
    )
    return model.eval(), _fill(model, "encoder.")


def network_inputs(
    config: AceStepConfig, length: int, rows: int = 2, condition_rows: int = 11
) -> dict[str, np.ndarray]:
    """Inputs of the transformer; the conditions of its examples have unequal lengths."""
    rng = np.random.default_rng(length)
    channels = config.latent_dim
    valid = np.arange(condition_rows)[None] < np.linspace(condition_rows, 3, rows).astype(int)[:, None]
    return {
        "x": rng.standard_normal((rows, length, channels), np.float32),
        "t": rng.random(rows, np.float32),
        "r": rng.random(rows, np.float32),
        "context": rng.standard_normal((rows, length, 2 * channels), np.float32),
        "condition": rng.standard_normal((rows, condition_rows, config.encoder.hidden), np.float32),
        "valid": valid,
    }
