"""Sum of DoRA and LoRA adapters with strengths as one DoRA adapter of their base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from musiclora.convert.adapters.combine import module_shapes
from musiclora.convert.adapters.lora import LoraSpec, join_magnitudes, magnitude_key, module_of_weight, state_keys
from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.safetensors_file import Arrays, Tensors

# A row whose gain is 0 has no share of the base; this one keeps less of it than float32 rounds away.
_SMALLEST_GAIN = 1e-9


class WholePart(NamedTuple):
    """Settings, matrices, magnitudes by module (empty for plain LoRA) and strength of an adapter."""

    spec: LoraSpec
    state: Arrays
    magnitudes: Arrays
    strength: float


def combine_with_dora(
    adapters: Sequence[WholePart], tensors: Tensors, *, conv1d: bool
) -> tuple[LoraSpec, dict[str, np.ndarray]]:
    """Sum adapters, each change of the base times its strength, into one DoRA adapter; exact but for rounding.

    With D the diagonal matrix of magnitude / ||row of W + c B A||, DoRA at strength s adds s (D - 1) W + s c D B A. A
    sum of such changes is G W + B' A' with a diagonal G and concatenated ranks, which is again a DoRA adapter: its
    matrices are G^-1 B' and A', its magnitudes the gains G times the lengths of the rows of W + G^-1 B' A'.

    Args:
        adapters: at least one; modules that one lacks are not changed by it.
        tensors: (canonical name, array) of the base, which is read once.
        conv1d: linear weights are [in, out] (GPT-2) and not [out, in].

    Returns:
        Settings and arrays as `Model.inject_adapter` takes them. One DoRA adapter of strength 1 comes out as it is.

    Raises:
        ConvertError: modules that the base lacks, or of another size.
    """
    if len(adapters) == 1 and adapters[0].magnitudes and adapters[0].strength == 1:
        return adapters[0].spec, join_magnitudes(adapters[0].state, adapters[0].magnitudes)
    shapes = module_shapes([part.state for part in adapters])
    rank = sum(part.spec.rank for part in adapters)
    combined: dict[str, np.ndarray] = {}
    problems = []
    for name, array in tensors:
        module = module_of_weight(name)
        if module not in shapes:
            continue
        weight = array.T if conv1d else array
        if weight.shape == shapes[module]:
            combined |= _combine_module(adapters, module, weight.astype(np.float64), rank)
        else:
            problems.append(f"{module} is {list(weight.shape)} in the base and {list(shapes[module])} in the adapters")
        del shapes[module]
    problems += [f"{module} is not in the base" for module in shapes]
    if problems:
        raise ConvertError(f"the adapters do not fit this base: {join_problems(problems)}")
    targets = {target for part in adapters for target in part.spec.targets}
    return LoraSpec(rank, float(rank), 0.0, tuple(targets), dora=True), combined


def _combine_module(adapters: Sequence[WholePart], module: str, weight: np.ndarray, rank: int) -> dict[str, np.ndarray]:
    """Combine the adapters of one module, whose weight is float64 [out, in]."""
    out, inputs = weight.shape
    a, b, gain = np.zeros((rank, inputs)), np.zeros((out, rank)), np.ones(out)
    key_a, key_b = state_keys(module)
    first = 0
    for part in adapters:
        rows = slice(first, first + part.spec.rank)
        first += part.spec.rank
        if key_a not in part.state:
            continue
        own_a, own_b = part.state[key_a].astype(np.float64), part.state[key_b].astype(np.float64) * part.spec.scale
        share = np.ones(out)
        if module in part.magnitudes:
            share = part.magnitudes[module] / _row_lengths(weight + own_b @ own_a)
            gain += part.strength * (share - 1)
        a[rows], b[:, rows] = own_a, part.strength * share[:, None] * own_b
    gain = np.where(np.abs(gain) < _SMALLEST_GAIN, _SMALLEST_GAIN, gain)
    b /= gain[:, None]
    magnitude = gain * np.linalg.norm(weight + b @ a, axis=1)
    found = {key_a: a, key_b: b, magnitude_key(module): magnitude}
    return {key: value.astype(np.float32) for key, value in found.items()}


def _row_lengths(matrix: np.ndarray) -> np.ndarray:
    """Compute the L2 norm of every row; 1 for a row of zeros, which has no direction and stays zero."""
    lengths: np.ndarray = np.linalg.norm(matrix, axis=1)
    return np.where(lengths, lengths, 1.0)
