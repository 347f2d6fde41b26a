"""Layouts of ACE-Step 1.5's weights on MLX: canonical tensors to the arrays that the forward passes read, and back.

Linear weights lie as in torch, [out, in]. The two convolutions over patches become linear layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from musiclora.convert.models.acestep_config import AceStepConfig

DECODER, ENCODER = "decoder.", "encoder."
PATCHES_IN, PATCHES_OUT = "proj_in.1", "proj_out.1"


def stored(name: str, value: np.ndarray, config: AceStepConfig) -> np.ndarray:
    """Convert one tensor of the transformer, named below `decoder.`, from the original's layout to the one read here.

    The kernel of the patches' convolution [hidden, 3 C, p] becomes [hidden, p * 3 C]: the columns of source and mask
    first, then those of the noisy latents, each patch by patch. That of the transposed one [hidden, C, p] becomes
    [p * C, hidden].
    """
    if name == f"{PATCHES_IN}.weight":
        known, noisy = np.split(value, [2 * config.latent_dim], axis=1)
        parts = [part.transpose(0, 2, 1).reshape(len(value), -1) for part in (known, noisy)]
        return np.ascontiguousarray(np.concatenate(parts, axis=1))
    if name == f"{PATCHES_OUT}.weight":
        return np.ascontiguousarray(value.transpose(2, 1, 0).reshape(-1, len(value)))
    return value


def canonical(name: str, value: np.ndarray, config: AceStepConfig) -> np.ndarray:
    """Invert `stored`."""
    size, channels = config.patch_size, config.latent_dim
    if name == f"{PATCHES_IN}.weight":
        known, noisy = np.split(value, [2 * channels * size], axis=1)
        parts = [part.reshape(len(value), size, -1).transpose(0, 2, 1) for part in (known, noisy)]
        return np.ascontiguousarray(np.concatenate(parts, axis=1))
    if name == f"{PATCHES_OUT}.weight":
        return np.ascontiguousarray(value.reshape(size, channels, -1).transpose(2, 1, 0))
    return value


def transformer_weights(
    tensors: Mapping[str, np.ndarray], config: AceStepConfig, dtype: mx.Dtype
) -> dict[str, mx.array]:
    """Copy the tensors below `decoder.` to the device, without that prefix and as `stored` puts them."""
    found = {}
    for name, value in tensors.items():
        if name.startswith(DECODER):
            name = name.removeprefix(DECODER)
            found[name] = mx.array(stored(name, np.asarray(value, np.float32), config)).astype(dtype)
    mx.eval(found)
    return found


def encoder_weights(tensors: Mapping[str, np.ndarray], dtype: mx.Dtype) -> dict[str, mx.array]:
    """Copy the tensors below `encoder.` to the device, under their canonical names."""
    found = {k: mx.array(np.asarray(v, np.float32)).astype(dtype) for k, v in tensors.items() if k.startswith(ENCODER)}
    mx.eval(found)
    return found
