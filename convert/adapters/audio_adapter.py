"""Adapters of the audio family, whose modules may each have their own rank and scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from musiclora.convert.adapters.audio_modules import KNOWN, AudioModules, architecture_of, known_paths
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


def check_audio_adapter(adapter: LoraAdapter, where: str) -> AudioModules:
    """Check an adapter before it is written, and return the names of its architecture.

    Raises:
        ConvertError: modules that no architecture of the audio family has, or arrays that do not fit.
    """
    found = architecture_of(adapter.ranks)
    if found is None:
        unknown = [module for module in adapter.ranks if module not in known_paths()]
        problems = join_problems(unknown or sorted(adapter.ranks))
        raise ConvertError(f"{where}: not linear layers of {KNOWN}: {problems}")
    adapter.check_arrays(where)
    return found


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
        ConvertError: modules that no architecture has, or of two of them, or arrays that are missing, mis-shaped or
            non-finite, all at once.
    """
    modules = state_modules(state)
    problems = [f"{module} is no linear layer of {KNOWN}" for module in modules if module not in known_paths()]
    if not problems and modules and architecture_of(modules) is None:
        problems.append(f"modules of two architectures, {KNOWN}")
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
