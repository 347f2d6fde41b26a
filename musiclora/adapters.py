"""Several adapters, each with a strength, as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from musiclora.convert.adapter import LoraSpec, state_keys
from musiclora.errors import ConfigError, ConvertError, listed

Arrays = Mapping[str, np.ndarray]


def parse_adapter(text: str) -> tuple[str, float]:
    """Split `PATH:STRENGTH`; without a strength it is 1.

    The strength is the text after the last colon if that is a number and the whole text is no existing path.

    Raises:
        ConfigError: a strength that is not finite, or nothing before it.
    """
    path, colon, number = text.rpartition(":")
    if not colon or Path(text).expanduser().exists():
        return text, 1.0
    try:
        strength = float(number)
    except ValueError:
        return text, 1.0
    if not path or not np.isfinite(strength):
        raise ConfigError(f"--adapter-dir {text}: expected PATH or PATH:STRENGTH with a finite strength such as 0.5")
    return path, strength


def combine(adapters: Sequence[tuple[LoraSpec, Arrays, float]]) -> tuple[LoraSpec, dict[str, np.ndarray]]:
    """The sum of adapters, each times its strength, as one adapter; exact, since ranks are concatenated.

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
    shapes = _module_shapes([state for _, state, _ in adapters])
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


def _module_shapes(states: Sequence[Arrays]) -> dict[str, tuple[int, int]]:
    """(out, in) of every module of any adapter."""
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
        raise ConvertError(f"these adapters do not fit together: {listed(problems)}")
    return shapes
