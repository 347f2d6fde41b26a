"""Initial values of an adapter, drawn in numpy so that all backends start alike."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from musiclora.convert.adapters.lora import (
    LoraSpec,
    magnitude_key,
    match_targets,
    module_of_weight,
    state_keys,
    state_modules,
)
from musiclora.convert.files.safetensors_file import Arrays, Tensors


def initial(spec: LoraSpec, shapes: Mapping[str, tuple[int, int]], seed: int) -> dict[str, np.ndarray]:
    """Draw A from U(±1/sqrt(in)) and set B to zero, for every module that the spec's targets match.

    This is kaiming_uniform(a=sqrt(5)) as in PEFT. Each module has a generator keyed by (seed, name), so that adding a
    layer does not change the others.

    Args:
        spec: rank and targets.
        shapes: (out, in) by module path, as `Model.linear_shapes` gives them.
        seed: any non-negative integer.

    Returns:
        float32 arrays `<module>.lora_A.weight` [rank, in] and `<module>.lora_B.weight` [out, rank]; DoRA's magnitudes
        depend on the base, see `with_magnitudes`.

    Raises:
        ConfigError: a target that matches nothing.
    """
    state = {}
    for name in match_targets(shapes, spec.targets):
        out_size, in_size = shapes[name]
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        bound = in_size**-0.5
        key_a, key_b = state_keys(name)
        state[key_a] = rng.uniform(-bound, bound, (spec.rank, in_size)).astype(np.float32)
        state[key_b] = np.zeros((out_size, spec.rank), np.float32)
    return state


def with_magnitudes(state: Arrays, weights: Tensors, *, conv1d: bool) -> dict[str, np.ndarray]:
    """Add DoRA's initial magnitudes to a state whose B is zero: the lengths of the rows of the base's weights.

    Args:
        state: result of `initial`.
        weights: (name, array) of the base, as `Model.read_weights` gives them.
        conv1d: linear weights are [in, out] (GPT-2) and not [out, in].

    Returns:
        The state with `<module>.lora_magnitude_vector`, float32 [out], for every module.

    Source: Liu et al. 2024 (arXiv 2402.09353), section 4.1.
    """
    modules, found = set(state_modules(state)), dict(state)
    for name, array in weights:
        if (module := module_of_weight(name)) in modules:
            wide = array.astype(np.float64)
            found[magnitude_key(module)] = np.linalg.norm(wide, axis=0 if conv1d else 1).astype(np.float32)
    return found
