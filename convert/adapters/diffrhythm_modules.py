"""Which modules of DiffRhythm's transformer an adapter names, and adapters made of parts with their own scales."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np

from musiclora.convert.adapters.lora import (
    LoraSpec,
    alpha_for,
    check_magnitudes,
    check_state,
    own_shapes,
    state_keys,
    state_modules,
)
from musiclora.convert.adapters.peft import PeftAdapter
from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.safetensors_file import non_finite
from musiclora.convert.models.diffrhythm import DiffRhythmConfig


@cache
def known_modules() -> frozenset[str]:
    """Paths of all linear layers of a model larger than any there is; a file's own names cannot be inverted as text."""
    return frozenset(DiffRhythmConfig(32, 64, 1, conv_layers=16, duration_embedding=True).linear_shapes())


def owns_modules(modules: Iterable[str]) -> bool:
    """Tell whether an adapter is for DiffRhythm's transformer, by the paths of the modules it adapts."""
    return set(modules) <= known_modules()


def audio_modules_of(state: Iterable[str], where: str) -> list[str]:
    """Modules of an adapter state that is to be written for DiffRhythm.

    Raises:
        ConvertError: modules that DiffRhythm lacks.
    """
    modules = state_modules(state)
    if unknown := [module for module in modules if module not in known_modules()]:
        raise ConvertError(f"{where}: not linear layers of DiffRhythm: {join_problems(unknown)}")
    return modules


def header_object(metadata: Mapping[str, str], key: str, where: str) -> dict[str, Any]:
    """A JSON object that a safetensors header keeps as text; empty where the key is missing.

    Raises:
        ConvertError: the text is no JSON object.
    """
    try:
        value = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{where}: its {key} is no JSON") from error
    if not isinstance(value, dict):
        raise ConvertError(f"{where}: its {key} is no JSON object")
    return value


def adapter_of(
    state: Mapping[str, np.ndarray],
    scales: Mapping[str, float],
    where: str,
    base_model: str,
    record: dict[str, Any],
    magnitudes: Mapping[str, np.ndarray] | None = None,
) -> PeftAdapter:
    """The native form of an adapter whose modules each have their own rank (by shape) and scale.

    Args:
        state: A [rank, in] and B [out, rank] of every module, by state key.
        scales: multiplier of B @ A of every module.
        where: the file, for messages.
        base_model: what it says it was trained on.
        record: content of musiclora.json.
        magnitudes: of a DoRA adapter, one vector [out] a module; None or empty for plain LoRA.

    Raises:
        ConvertError: modules that DiffRhythm lacks, or arrays that are missing, mis-shaped or non-finite, all at once.
    """
    modules = state_modules(state)
    problems = [f"{module} is no linear layer of DiffRhythm" for module in modules if module not in known_modules()]
    problems += [text for name, array in state.items() if (text := non_finite(name, array))]
    problems += [f"{key} is missing" for module in modules for key in state_keys(module) if key not in state]
    if problems or not modules:
        raise ConvertError(f"{where}: {join_problems(problems or ['no LoRA arrays here'])}")
    ranks = {module: int(state[state_keys(module)[0]].shape[0]) for module in modules}
    check_state(state, own_shapes(state, ranks), where)
    if magnitudes:
        check_magnitudes(magnitudes, state, where)
    rank = max(ranks.values())
    scale = max((scales[module] for module in modules), key=abs)
    # Full paths: a short name could hit the duration embedding of a model that has one, unknown to the adapter.
    spec = LoraSpec(rank, alpha_for(scale, rank), 0.0, tuple(modules))
    state = {name: np.asarray(array, np.float32) for name, array in state.items()}
    vectors = {module: np.asarray(vector, np.float32) for module, vector in (magnitudes or {}).items()}
    own = {module: scales[module] for module in modules}
    return PeftAdapter(spec, state, base_model, record, {}, ranks, own, vectors)
