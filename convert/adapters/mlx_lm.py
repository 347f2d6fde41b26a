"""LoRA adapters of mlx-lm for GPT-2, to and from the native PEFT form."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
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
from musiclora.convert.files.atomic import atomic_folder, atomic_write
from musiclora.convert.files.safetensors_file import Arrays, non_finite, read_safetensors, write_safetensors
from musiclora.convert.files.weight_files import read_json

_KEY = re.compile(r"model\.(?P<module>h\.(?:0|[1-9]\d*)\..+)\.(?P<part>lora_a|lora_b|m)", re.ASCII)
_BLOCK = re.compile(r"transformer\.h\.(?P<layer>\d+)\.(?P<name>.+)", re.ASCII)
_EMBEDDINGS = ("model.wte.", "model.wpe.")


def is_mlx_lm(config: Mapping[str, Any]) -> bool:
    """Whether an adapter_config.json is mlx-lm's."""
    return "lora_parameters" in config or "fine_tune_type" in config


def write_mlx_lm(
    folder: Path,
    spec: LoraSpec,
    state: Arrays,
    *,
    base_model: str,
    magnitudes: Arrays | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder that mlx-lm's `load_adapters` accepts on its GPT-2, whole or not at all.

    Args:
        folder: destination.
        spec: one rank and one scale for all modules (see `uniform`).
        state: canonical keys, A [rank, in] and B [out, rank].
        base_model: what the adapter belongs to.
        magnitudes: of a DoRA adapter, one vector [out] a module.
        record: content of musiclora.json, which mlx-lm ignores.

    Raises:
        ConvertError: modules outside GPT-2's blocks, or arrays that do not fit the rank.
        OutputError: the system refuses to write.
    """
    modules = state_modules(state)
    check_state(state, own_shapes(state, dict.fromkeys(modules, spec.rank)), str(folder))
    if magnitudes:
        check_magnitudes(magnitudes, state, str(folder))
    if others := [module for module in modules if not _BLOCK.fullmatch(module)]:
        raise ConvertError(f"mlx-lm adapters are for GPT-2's blocks; it cannot hold {join_problems(others)}")
    arrays: dict[str, np.ndarray] = {}
    for module in modules:
        key_a, key_b = state_keys(module)
        name = "model." + module.removeprefix("transformer.")
        arrays[f"{name}.lora_a"] = np.ascontiguousarray(state[key_a].T, np.float32)
        arrays[f"{name}.lora_b"] = np.ascontiguousarray(state[key_b].T, np.float32)
        if magnitudes:
            arrays[f"{name}.m"] = np.asarray(magnitudes[module], np.float32)
    keys, layers = _keys(spec, modules)
    config = {
        "fine_tune_type": "dora" if magnitudes else "lora",
        "model": base_model,
        "num_layers": layers,
        "lora_parameters": {"rank": spec.rank, "scale": spec.scale, "dropout": spec.dropout, "keys": keys},
    }
    with atomic_folder(Path(folder)) as temporary:
        write_safetensors(temporary / "adapters.safetensors", arrays, {"format": "mlx"})
        atomic_write(temporary / "adapter_config.json", json.dumps(config, indent=2) + "\n")
        atomic_write(temporary / "musiclora.json", json.dumps(dict(record or {}), indent=2, ensure_ascii=False) + "\n")


def read_mlx_lm(folder: Path) -> PeftAdapter:
    """Read mlx-lm's folder into the native form.

    Raises:
        ConvertError: full fine-tuning (named), embeddings, or arrays that are missing, surplus, mis-shaped or
            non-finite, all at once.
    """
    folder = Path(folder)
    config = read_json(folder / "adapter_config.json")
    rank, scale, dropout = _parameters(config, folder)
    state, magnitudes, problems = _state(folder)
    modules = state_modules(state)
    if problems or not modules:
        raise ConvertError(f"{folder}: {join_problems(problems or ['no LoRA arrays here'])}")
    problems = _unfilled(config, modules)
    if problems:
        raise ConvertError(f"{folder}: {join_problems(problems)}")
    check_state(state, own_shapes(state, dict.fromkeys(modules, rank)), str(folder))
    if magnitudes or config.get("fine_tune_type") == "dora":
        check_magnitudes(magnitudes, state, str(folder))
    spec = LoraSpec(rank, alpha_for(scale, rank), dropout, _targets(config, modules))
    record = read_json(folder / "musiclora.json") if (folder / "musiclora.json").is_file() else {}
    same = dict.fromkeys(modules, rank), dict.fromkeys(modules, spec.scale)
    return PeftAdapter(spec, state, str(config.get("model") or ""), record, config, *same, magnitudes)


def _parameters(config: Mapping[str, Any], folder: Path) -> tuple[int, float, float]:
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise ConvertError(f"{folder}: fine_tune_type {kind!r} is not supported, only 'lora' and 'dora' are")
    parameters = config.get("lora_parameters")
    values = parameters if isinstance(parameters, dict) else {}
    rank, scale, dropout = values.get("rank"), _number(values.get("scale")), _number(values.get("dropout", 0.0))
    if type(rank) is not int or rank < 1 or scale is None or dropout is None:
        raise ConvertError(f"{folder}: adapter_config.json lacks a usable lora_parameters.rank, .scale or .dropout")
    return rank, scale, dropout


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _state(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """A and B by state key, DoRA's magnitudes by module, and what is wrong with names and values."""
    path = folder / "adapters.safetensors"
    if not path.is_file():
        raise ConvertError(f"{folder}: no adapters.safetensors here")
    state: dict[str, np.ndarray] = {}
    magnitudes: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for name, array in read_safetensors(path).items():
        match = _KEY.fullmatch(name)
        if match is None:
            kind = "LoRA on an embedding is not exchangeable: mlx-lm also changes the tied output head"
            problems.append(f"{name} ({kind})" if name.startswith(_EMBEDDINGS) else f"{name} is no LoRA array of GPT-2")
        elif problem := non_finite(name, array):
            problems.append(problem)
        elif match["part"] == "m":
            magnitudes["transformer." + match["module"]] = np.asarray(array, np.float32)
        else:
            key_a, key_b = state_keys("transformer." + match["module"])
            # mlx-lm keeps A as [in, rank] and B as [rank, out]; where rank == in the wrong one would load too.
            state[key_a if match["part"] == "lora_a" else key_b] = np.ascontiguousarray(array.T, np.float32)
    return state, magnitudes, problems


def _unfilled(config: Mapping[str, Any], modules: list[str]) -> list[str]:
    """Modules that the configuration adapts and the file leaves out: mlx-lm would leave them at random values."""
    keys = config["lora_parameters"].get("keys")
    if keys is None:
        return []
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        return ["lora_parameters.keys is no list of names"]
    blocks = [match for module in modules if (match := _BLOCK.fullmatch(module))]
    layers = {match["layer"] for match in blocks}
    full = {"model." + module.removeprefix("transformer.") for module in modules}
    relative = {match["name"] for match in blocks}
    missing = [key for key in keys if key.startswith("model.") and key not in full]
    for key in keys:
        if not key.startswith("model."):
            missing += [f"model.h.{layer}.{key}" for layer in sorted(layers) if f"model.h.{layer}.{key}" not in full]
    surplus = [name for name in sorted(full) if name not in keys and not _suffix(name, relative) & set(keys)]
    return [f"{name} has no arrays" for name in missing] + [f"{name} is not among the keys" for name in surplus]


def _suffix(name: str, relative: set[str]) -> set[str]:
    return {part for part in relative if name.endswith("." + part)}


def _layers(modules: list[str]) -> dict[int, set[str]]:
    layers: dict[int, set[str]] = {}
    for module in modules:
        if match := _BLOCK.fullmatch(module):
            layers.setdefault(int(match["layer"]), set()).add(match["name"])
    return layers


def _keys(spec: LoraSpec, modules: list[str]) -> tuple[list[str], int]:
    """The keys of mlx-lm and its num_layers: relative to a block where all blocks are alike, else full paths."""
    layers = _layers(modules)
    if _alike(layers) and not any(_BLOCK.fullmatch(target) for target in spec.targets):
        return sorted(layers[0]), len(layers)
    return sorted("model." + module.removeprefix("transformer.") for module in modules), max(layers) + 1


def _targets(config: Mapping[str, Any], modules: list[str]) -> tuple[str, ...]:
    """Names within a block where every block is meant, else full paths.

    mlx-lm adapts the last num_layers blocks, so keys relative to a block and arrays for the first one mean all of them.
    """
    layers = _layers(modules)
    keys = config["lora_parameters"].get("keys") or ()
    if _alike(layers) and not any(key.startswith("model.") for key in keys):
        return tuple(sorted(layers[0]))
    return tuple(modules)


def _alike(layers: Mapping[int, set[str]]) -> bool:
    return sorted(layers) == list(range(len(layers))) and len({frozenset(names) for names in layers.values()}) == 1
