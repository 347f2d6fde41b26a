"""A small DiffRhythm with random weights in all its parts, and batches for it."""

from __future__ import annotations

import zlib

import numpy as np

from musiclora.backends import lora_init
from musiclora.backends.base import AUDIO_TARGETS, FAMILIES
from musiclora.backends.mlx.backend import BACKEND
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.models.diffrhythm import DiffRhythmConfig, write_diffrhythm

CONFIG = DiffRhythmConfig(64, 3, 2, conv_layers=1, mel_dim=6, text_num_embeds=20, max_frames=40)


def tensors(config=CONFIG):
    """Weights large enough that no part is close to linear, and none zero."""
    for name, shape in config.tensor_shapes().items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        fan = np.prod(shape[1:]) if len(shape) > 1 else 25
        value = rng.standard_normal(shape) * fan**-0.5
        yield name, (value + ("norm.weight" in name)).astype(np.float32)


def write(folder, config=CONFIG, layout="hf"):
    write_diffrhythm(folder, config, tensors(config), layout, "float32")
    return folder


def load(folder, dtype="float32"):
    return BACKEND.load(FAMILIES["audio"], folder, dtype=dtype)


def adapted(folder, dropout=0.0, dtype="float32", targets=AUDIO_TARGETS):
    """The model with an adapter whose B is not zero."""
    model = load(folder, dtype)
    spec = LoraSpec(3, 6.0, dropout, targets)
    rng = np.random.default_rng(8)
    state = lora_init.initial(spec, model.linear_shapes(), 5)
    model.inject_adapter(spec, {k: v + rng.normal(0, 0.05, v.shape).astype(np.float32) for k, v in state.items()})
    return model


def batch(seed=0, rows=2, length=24, config=CONFIG):
    """A flow batch with every condition, its second row half as long."""
    rng = np.random.default_rng(seed)
    whole = (rows, length, config.mel_dim)
    valid = np.ones((rows, length), bool)
    valid[1:, length // 2 :] = False
    return {
        "latents": rng.standard_normal(whole, dtype=np.float32),
        "noise": rng.standard_normal(whole, dtype=np.float32),
        "time": rng.random(rows, dtype=np.float32),
        "valid": valid,
        "start_time": rng.random(rows, dtype=np.float32),
        "duration": rng.random(rows, dtype=np.float32),
        "cond": rng.standard_normal(whole, dtype=np.float32),
        "text": rng.integers(0, config.text_num_embeds + 1, (rows, length)).astype(np.int32),
        "style": rng.standard_normal((rows, 512), dtype=np.float32) * np.float32(0.05),
    }


def without(given, *keys):
    return {key: value for key, value in given.items() if key not in keys}
