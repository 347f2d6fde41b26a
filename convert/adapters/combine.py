"""Sum of several adapters with strengths as one adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from musiclora.convert.adapters.lora import LoraSpec, state_keys
from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.safetensors_file import Arrays


def combine_adapters(adapters: Sequence[tuple[LoraSpec, Arrays, float]]) -> tuple[LoraSpec, dict[str, np.ndarray]]:
    """Sum adapters, each times its strength, into one adapter; exact, since ranks are concatenated.

    Args:
        adapters: settings, arrays (one rank a adapter) and strength of each; at least one.

    Returns:
        One adapter that alone with strength 1 is returned as it is; else the rank is the sum of ranks, a module that
        an adapter lacks has zeros for it, and the dropout is 0.

    Raises:
        ConvertError: a module has different shapes in two adapters.
    """
    if len(adapters) == 1:
        spec, state, strength = adapters[0]
        return dataclasses.replace(spec, alpha=spec.alpha * strength), dict(state)
    shapes = module_shapes([state for _, state, _ in adapters])
    rank = sum(spec.rank for spec, _, _ in adapters)
    combined: dict[str, np.ndarray] = {}
    for module, (out, inputs) in shapes.items():
        key_a, key_b = state_keys(module)
        a, b = np.zeros((rank, inputs), np.float32), np.zeros((out, rank), np.float32)
        first = 0
        for spec, state, strength in adapters:
            rows = slice(first, first + spec.rank)
            first += spec.rank
            if key_a in state:
                a[rows], b[:, rows] = state[key_a], state[key_b] * np.float32(strength * spec.scale)
        combined[key_a], combined[key_b] = a, b
    targets = {target for spec, _, _ in adapters for target in spec.targets}
    return LoraSpec(rank, float(rank), 0.0, tuple(targets)), combined


def module_shapes(states: Sequence[Arrays]) -> dict[str, tuple[int, int]]:
    """Collect (out, in) of every module of any adapter."""
    shapes: dict[str, tuple[int, int]] = {}
    problems = []
    for state in states:
        for key in state:
            module = key.removesuffix(".lora_A.weight")
            if module == key:
                continue
            key_a, key_b = state_keys(module)
            shape = (state[key_b].shape[0], state[key_a].shape[1])
            if shapes.setdefault(module, shape) != shape:
                problems.append(f"{module} is {list(shapes[module])} in one and {list(shape)} in another")
    if problems:
        raise ConvertError(f"these adapters do not fit together: {join_problems(problems)}")
    return shapes
