"""LoRA adapters of mlx-lm for GPT-2."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.adapters.lora import (
    LoraSpec,
    alpha_for,
    state_keys,
    state_modules,
    to_float32,
    unmatched_targets,
)
from musiclora.convert.adapters.lora_adapter import LoraAdapter, make_uniform
from musiclora.convert.errors import ConfigError, ConvertError, join_problems, show_value
from musiclora.convert.files.atomic import atomic_folder, atomic_write, write_json
from musiclora.convert.files.fingerprint import RECORD, read_record
from musiclora.convert.files.json_file import INTEGER, NULL, NUMBER, TEXT, list_of, object_with, read_json
from musiclora.convert.files.safetensors_file import non_finite, read_safetensors, write_safetensors

_ARRAY_NAME = re.compile(r"model\.(?P<module>h\.(?:0|[1-9]\d*)\..+)\.(?P<part>lora_a|lora_b|m)", re.ASCII)
_BLOCK_MODULE = re.compile(r"transformer\.h\.(?P<layer>\d+)\.(?P<name>.+)", re.ASCII)
_BLOCK_LAYERS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
_FULL_KEY = re.compile(rf"model\.h\.(?P<layer>\d+)\.(?:{'|'.join(map(re.escape, _BLOCK_LAYERS))})", re.ASCII)
_CONFIG_KIND = object_with(
    {
        "fine_tune_type": TEXT,
        "model": TEXT | NULL,
        "num_layers": INTEGER,
        "lora_parameters": object_with(
            {"rank": INTEGER, "scale": NUMBER, "dropout": NUMBER, "keys": list_of(TEXT) | NULL}, ("rank", "scale")
        ),
    },
    ("lora_parameters",),
)
_EMBEDDINGS = ("model.wte.", "model.wpe.")


def is_mlx_lm(config: Mapping[str, Any]) -> bool:
    """Check an adapter_config.json for mlx-lm's keys."""
    return "lora_parameters" in config or "fine_tune_type" in config


def write_mlx_lm(folder: Path, adapter: LoraAdapter) -> None:
    """Write a folder that mlx-lm's `load_adapters` accepts on its GPT-2, whole or not at all.

    The format holds one rank and one scale, so others are made uniform first; mlx-lm ignores the record.

    Raises:
        ConvertError: modules outside GPT-2's blocks, or arrays that do not fit the rank.
        OutputError: the system refuses to write.
    """
    adapter.check_arrays(str(folder))
    spec, state = make_uniform(adapter)
    modules = list(adapter.ranks)
    if others := [module for module in modules if not _BLOCK_MODULE.fullmatch(module)]:
        raise ConvertError(f"mlx-lm adapters are for GPT-2's blocks; it cannot hold {join_problems(others)}")
    arrays: dict[str, np.ndarray] = {}
    for module in modules:
        key_a, key_b = state_keys(module)
        name = "model." + module.removeprefix("transformer.")
        arrays[f"{name}.lora_a"] = np.ascontiguousarray(state[key_a].T, np.float32)
        arrays[f"{name}.lora_b"] = np.ascontiguousarray(state[key_b].T, np.float32)
        if adapter.magnitudes:
            arrays[f"{name}.m"] = np.asarray(adapter.magnitudes[module], np.float32)
    keys, layers = _choose_keys(spec, modules)
    config = {
        "fine_tune_type": "dora" if adapter.magnitudes else "lora",
        "model": adapter.base_model,
        "num_layers": layers,
        "lora_parameters": {"rank": spec.rank, "scale": spec.scale, "dropout": spec.dropout, "keys": keys},
    }
    with atomic_folder(Path(folder)) as temporary:
        write_safetensors(temporary / "adapters.safetensors", arrays, {"format": "mlx"})
        atomic_write(temporary / "adapter_config.json", json.dumps(config, indent=2) + "\n")
        write_json(temporary / RECORD, adapter.record)


def read_mlx_lm(folder: Path) -> LoraAdapter:
    """Read a folder of mlx-lm.

    Raises:
        ConvertError: full fine-tuning (named), embeddings, or arrays that are missing, surplus, mis-shaped or
            non-finite, all at once.
    """
    folder = Path(folder)
    config = read_json(folder / "adapter_config.json", _CONFIG_KIND)
    rank, scale, dropout = _read_parameters(config, folder)
    state, magnitudes, problems = _read_arrays(folder)
    modules = state_modules(state)
    if problems or not modules:
        raise ConvertError(f"{folder}: {join_problems(problems or ['no LoRA arrays here'])}")
    if problems := _compare_keys(config, modules):
        raise ConvertError(f"{folder}: {join_problems(problems)}")
    try:
        spec = LoraSpec(rank, alpha_for(scale, rank), dropout, _choose_targets(config, modules))
    except ConfigError as error:
        raise ConvertError(f"{folder}: adapter_config.json: {error}") from error
    ranks, scales = dict.fromkeys(modules, rank), dict.fromkeys(modules, spec.scale)
    record = read_record(folder)
    adapter = LoraAdapter(spec, state, str(config.get("model") or ""), record, config, ranks, scales, magnitudes)
    adapter.check_arrays(str(folder))
    return adapter


def _read_parameters(config: Mapping[str, Any], folder: Path) -> tuple[int, float, float]:
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise ConvertError(f"{folder}: fine_tune_type {show_value(kind)} is not supported, only lora and dora are")
    values = config["lora_parameters"]
    if values["rank"] < 1:
        raise ConvertError(f"{folder}: lora_parameters.rank is {values['rank']}; it must be at least 1")
    return values["rank"], float(values["scale"]), float(values.get("dropout", 0.0))


def _read_arrays(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """Read A and B by state key, and DoRA's magnitudes by module; list wrong names and values."""
    path = folder / "adapters.safetensors"
    if not path.is_file():
        raise ConvertError(f"{folder}: no adapters.safetensors here")
    state: dict[str, np.ndarray] = {}
    magnitudes: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for name, array in read_safetensors(path).items():
        match = _ARRAY_NAME.fullmatch(name)
        if match is None:
            kind = "LoRA on an embedding is not exchangeable: mlx-lm also changes the tied output head"
            problems.append(f"{name} ({kind})" if name.startswith(_EMBEDDINGS) else f"{name} is no LoRA array of GPT-2")
        elif problem := non_finite(name, array):
            problems.append(problem)
        elif match["part"] == "m":
            magnitudes["transformer." + match["module"]] = to_float32(f"{path}: {name}", array)
        else:
            key_a, key_b = state_keys("transformer." + match["module"])
            # mlx-lm keeps A as [in, rank] and B as [rank, out]; where rank == in the wrong one would load too.
            state[key_a if match["part"] == "lora_a" else key_b] = np.ascontiguousarray(
                to_float32(f"{path}: {name}", array).T
            )
    return state, magnitudes, problems


def _compare_keys(config: Mapping[str, Any], modules: Sequence[str]) -> list[str]:
    """List what mlx-lm would refuse or would leave at random values.

    mlx-lm adapts the modules that `keys` names relative to a block in the last num_layers blocks (in all of them where
    that is not above 0), and those that it names by full path. A key that names nothing is ignored.
    """
    full, relative = _sort_keys(config)
    blocks = _modules_by_layer(modules)
    present = {_full_key(layer, name) for layer, names in blocks.items() for name in names}
    wanted = {key for key in full if (match := _FULL_KEY.fullmatch(key)) and int(match["layer"]) <= max(blocks)}
    by_name = {(layer, name) for layer, names in blocks.items() for name in names if _full_key(layer, name) not in full}
    problems = [f"{_full_key(*pair)} is not among the keys" for pair in sorted(by_name) if pair[1] not in relative]
    by_name = {pair for pair in by_name if pair[1] in relative}
    if by_name:
        lowest, end = min(by_name)[0], max(by_name)[0] + 1
        count = config.get("num_layers", end - lowest)
        first = max(end - count, 0) if count > 0 else 0
        if lowest < first:
            problems.append(f"num_layers is {count}, but there are arrays for the blocks {lowest} to {end - 1}")
        wanted |= {_full_key(layer, name) for layer in range(first, end) for _, name in by_name}
    return problems + [f"{key} has no arrays" for key in sorted(wanted - present)]


def _sort_keys(config: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Sort lora_parameters.keys into full paths and names relative to a block; without keys all layers are meant."""
    keys = config["lora_parameters"].get("keys")
    if keys is None:
        return set(), set(_BLOCK_LAYERS)
    full = {key for key in keys if key.startswith("model.")}
    return full, set(keys) - full


def _full_key(layer: int, name: str) -> str:
    return f"model.h.{layer}.{name}"


def _modules_by_layer(modules: Sequence[str]) -> dict[int, set[str]]:
    layers: dict[int, set[str]] = {}
    for module in modules:
        if match := _BLOCK_MODULE.fullmatch(module):
            layers.setdefault(int(match["layer"]), set()).add(match["name"])
    return layers


def _choose_keys(spec: LoraSpec, modules: Sequence[str]) -> tuple[list[str], int]:
    """Choose mlx-lm's keys and num_layers; keys are relative to a block where all blocks are meant, else full paths."""
    layers = _modules_by_layer(modules)
    if _are_alike(layers) and not unmatched_targets(layers[0], spec.targets):
        return sorted(layers[0]), len(layers)
    return sorted("model." + module.removeprefix("transformer.") for module in modules), max(layers) + 1


def _choose_targets(config: Mapping[str, Any], modules: Sequence[str]) -> tuple[str, ...]:
    """Choose names within a block where every block is meant, else full paths.

    mlx-lm adapts the last num_layers blocks, so keys relative to a block and arrays for the first one mean all of them.
    """
    layers = _modules_by_layer(modules)
    full, _ = _sort_keys(config)
    if _are_alike(layers) and not any(_full_key(layer, n) in full for layer, names in layers.items() for n in names):
        return tuple(sorted(layers[0]))
    return tuple(modules)


def _are_alike(layers: Mapping[int, set[str]]) -> bool:
    return sorted(layers) == list(range(len(layers))) and len({frozenset(names) for names in layers.values()}) == 1
