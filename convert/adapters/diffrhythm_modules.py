"""Modules of DiffRhythm's transformer in adapter files, and adapters whose modules have their own rank and scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np

from musiclora.convert.adapters.lora import (
    LoraSpec,
    alpha_for,
    rank_of,
    rank_problems,
    state_keys,
    state_modules,
    to_float32,
)
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.json_file import OBJECT, Kind, parse_json
from musiclora.convert.files.safetensors_file import Arrays, non_finite
from musiclora.convert.models.diffrhythm import DiffRhythmConfig


@cache
def known_modules() -> frozenset[str]:
    """List the paths of all linear layers of a model larger than any published one.

    A file with flat names needs them: `a_b` may stand for `a.b` or `a_b`.
    """
    return frozenset(DiffRhythmConfig(32, 64, 1, conv_layers=16, duration_embedding=True).linear_shapes())


def owns_diffrhythm_modules(modules: Iterable[str]) -> bool:
    """Tell whether an adapter is for DiffRhythm's transformer, by the paths of the modules it adapts."""
    return set(modules) <= known_modules()


def check_diffrhythm_adapter(adapter: LoraAdapter, where: str) -> None:
    """Check an adapter before it is written for DiffRhythm.

    Raises:
        ConvertError: modules that DiffRhythm lacks, or arrays that do not fit.
    """
    if unknown := [module for module in adapter.ranks if module not in known_modules()]:
        raise ConvertError(f"{where}: not linear layers of DiffRhythm: {join_problems(unknown)}")
    adapter.check_arrays(where)


def header_object(metadata: Mapping[str, str], key: str, where: str, kind: Kind = OBJECT) -> dict[str, Any]:
    """Read a JSON object that a safetensors header keeps as text; empty where the key is missing.

    Raises:
        ConvertError: the text is no such object.
    """
    value: dict[str, Any] = parse_json(metadata.get(key, "{}"), f"{where}: its {key}", kind)
    return value


def build_adapter(
    state: Arrays,
    scales: Mapping[str, float],
    where: str,
    *,
    base_model: str = "",
    record: Mapping[str, Any] | None = None,
    magnitudes: Arrays | None = None,
    notes: tuple[str, ...] = (),
) -> LoraAdapter:
    """Build an adapter whose modules each have their own rank (by shape) and scale.

    Args:
        state: A [rank, in] and B [out, rank] of every module, by state key.
        scales: multiplier of B @ A of every module.
        where: the file, for messages.
        base_model: the base that the file names.
        record: content of musiclora.json.
        magnitudes: of a DoRA adapter, one vector [out] a module.
        notes: remarks for the user.

    Raises:
        ConvertError: modules that DiffRhythm lacks, or arrays that are missing, mis-shaped or non-finite, all at once.
    """
    modules = state_modules(state)
    problems = [f"{module} is no linear layer of DiffRhythm" for module in modules if module not in known_modules()]
    problems += [text for name, array in state.items() if (text := non_finite(name, array))]
    problems += rank_problems(state)
    problems += [f"{key} is missing" for module in modules if (key := state_keys(module)[1]) not in state]
    if problems or not modules:
        raise ConvertError(f"{where}: {join_problems(problems or ['no LoRA arrays here'])}")
    rank_scales = {module: (rank_of(state, module), scales[module]) for module in modules}
    rank = max(rank for rank, _ in rank_scales.values())
    scale = max((scale for _, scale in rank_scales.values()), key=abs)
    adapter = LoraAdapter.from_spec(
        # Full paths: a short name could match the duration embedding of a model that has one.
        LoraSpec(rank, alpha_for(scale, rank), 0.0, tuple(modules)),
        {name: to_float32(f"{where}: {name}", array) for name, array in state.items()},
        base_model,
        rank_scales=rank_scales,
        magnitudes={module: np.asarray(vector, np.float32) for module, vector in (magnitudes or {}).items()},
        record=record,
        notes=notes,
    )
    adapter.check_arrays(where)
    return adapter
