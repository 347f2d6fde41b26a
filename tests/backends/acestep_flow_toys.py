"""Small ACE-Step models with random weights, their batches and adapters."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from musiclora.backends import lora_init
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.models.acestep_config import AceStepConfig, StackConfig, alternating

SPEC = LoraSpec(rank=3, alpha=6.0, dropout=0.0, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
CONFIGS = {
    # heads * head_dim is not the width, and a window of 2 rows hides most of what a sliding block could see
    "rectangular": AceStepConfig(
        StackConfig(48, 80, 6, 2, 10), StackConfig(48, 80, 6, 2, 10), alternating(3), latent_dim=6, sliding_window=2
    ),
    "xl": AceStepConfig(
        StackConfig(64, 96, 4, 2, 16), StackConfig(40, 64, 2, 1, 16), alternating(2), latent_dim=5, sliding_window=5
    ),
    "biased": AceStepConfig(
        StackConfig(32, 64, 4, 4, 8),
        StackConfig(32, 64, 4, 4, 8),
        ("full_attention", "sliding_attention"),
        latent_dim=4,
        patch_size=3,
        sliding_window=4,
        attention_bias=True,
        rope_theta=100.0,
    ),
}
FRAMES = 23  # odd, so that the last patch is padded
# The interface promises 2e-4 of the largest value for every stage; a width of 64 and three blocks stay far below it.
PARITY = 2e-4


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Draw weights that depend on their names only; none is zero, so that every part matters."""
    tensors = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 25
        tensors[name] = (rng.standard_normal(shape) * fan**-0.5 + ("norm" in name)).astype(np.float32)
    return tensors


def flow_batch(
    config: AceStepConfig, rows: int = 2, frames: int = FRAMES, condition: int = 7, seed: int = 0
) -> dict[str, np.ndarray]:
    """Draw a batch without padding."""
    rng = np.random.default_rng(seed)
    whole = (rows, frames, config.latent_dim)
    return {
        "latents": rng.standard_normal(whole, np.float32),
        "noise": rng.standard_normal(whole, np.float32),
        "time": rng.random(rows, np.float32),
        "valid": np.ones((rows, frames), bool),
        "condition": rng.standard_normal((rows, condition, config.encoder.hidden), np.float32),
        "condition_valid": np.ones((rows, condition), bool),
        "context": rng.standard_normal((rows, frames, 2 * config.latent_dim), np.float32),
    }


def uneven_batch(config: AceStepConfig, padding: float = 3.0) -> dict[str, np.ndarray]:
    """Draw three rows of unequal lengths and conditions; `padding` fills the rest."""
    batch = flow_batch(config, rows=3)
    batch["valid"] = np.arange(FRAMES) < np.array([[FRAMES], [FRAMES // 2], [9]])
    batch["condition_valid"][1, 4:] = False
    batch["condition_valid"][2, [0, 3]] = False  # padding of lyrics lies before the text
    batch["condition"][~batch["condition_valid"]] = padding
    for key in ("latents", "noise", "context"):
        batch[key][~batch["valid"]] = padding
    return batch


def row_alone(batch: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """Take one row of a batch, cut to its length, with its condition packed."""
    frames, rows = batch["valid"][index], batch["condition_valid"][index]
    alone = {key: batch[key][index : index + 1, frames] for key in ("latents", "noise", "context", "valid")}
    alone |= {key: batch[key][index : index + 1, rows] for key in ("condition", "condition_valid")}
    return {**alone, "time": batch["time"][index : index + 1]}


def conditioning_of(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Reduce a batch to the argument of prepare."""
    return {key: value for key, value in batch.items() if key not in ("latents", "noise", "time")}


def adapter_state(model: Any, spec: LoraSpec = SPEC, seed: int = 1) -> dict[str, np.ndarray]:
    """Draw an adapter whose B is not zero, so that it changes the model and every array has a gradient."""
    state = lora_init.initial(spec, model.linear_shapes(), seed)
    if spec.dora:
        state = lora_init.with_magnitudes(state, model.read_weights(), conv1d=False)
    rng = np.random.default_rng(seed)
    return {k: v + rng.normal(0, 0.05, v.shape).astype(np.float32) for k, v in state.items()}
