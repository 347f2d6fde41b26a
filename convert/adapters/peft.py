"""LoRA adapters as PEFT folders, the native format here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.adapters.audio_arrays import find_module
from musiclora.convert.adapters.audio_modules import ACESTEP, architecture_of
from musiclora.convert.adapters.diffusers_header import diffusers_header
from musiclora.convert.adapters.lora import (
    MAGNITUDE,
    LoraSpec,
    RankScales,
    alpha_for,
    is_target,
    rank_of,
    rank_problems,
    state_keys,
    state_modules,
    unmatched_targets,
)
from musiclora.convert.adapters.lora_adapter import UNSTATED_ALPHA, LoraAdapter, PeftArrays, sort_arrays
from musiclora.convert.adapters.peft_config import (
    PEFT_PREFIX,
    base_keys,
    left_out,
    lora_config,
    module_scale,
    named_base,
)
from musiclora.convert.adapters.peft_keys import read_config, refuse_others
from musiclora.convert.errors import ConfigError, ConvertError, join_problems
from musiclora.convert.files.atomic import atomic_folder, atomic_write
from musiclora.convert.files.fingerprint import RECORD, read_record
from musiclora.convert.files.safetensors_file import Arrays, iter_safetensors, write_safetensors
from musiclora.convert.files.torch_file import TorchFile


def write_peft(
    folder: Path,
    spec: LoraSpec,
    state: Arrays,
    *,
    base_model: str,
    rank_scales: RankScales | None = None,
    magnitudes: Arrays | None = None,
    task_type: str | None = "CAUSAL_LM",
    fan_in_fan_out: bool = True,
    record: Mapping[str, Any] | None = None,
    readme: str = "",
    extra_files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
    own_config: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder that vanilla `PeftModel.from_pretrained` loads, whole or not at all.

    Args:
        folder: destination.
        spec: settings of the adapter.
        state: arrays by state key; stored as float32.
        base_model: the base it belongs to (a Hub id or a name, never a private path); empty for none.
        rank_scales: rank and scale of every module, where they differ from those of spec.
        magnitudes: of a DoRA adapter, one vector [out] a module.
        task_type: CAUSAL_LM for GPT-2, None for a model without a task type in PEFT.
        fan_in_fan_out: True for GPT-2, whose layers are Conv1D.
        record: content of musiclora.json.
        readme: content of README.md; not written where it is empty.
        extra_files: more files by plain name.
        overwrite: replace an existing folder; the old one stays until the new one is complete.
        own_config: the adapter_config.json that the adapter was read from; see `lora_config`.

    Raises:
        ConvertError: arrays that are missing, surplus, mis-shaped or non-finite.
        OutputError: the system refuses to write.
    """
    adapter = LoraAdapter.from_spec(spec, state, base_model, rank_scales=rank_scales, magnitudes=magnitudes)
    adapter.check_arrays(str(folder))
    if unused := unmatched_targets(adapter.ranks, spec.targets):
        raise ConvertError(f"{folder}: no array for the target modules {join_problems(unused)}")
    config = lora_config(spec, rank_scales, dora=bool(magnitudes), own=own_config)
    config |= {**base_keys(base_model), "task_type": task_type, "fan_in_fan_out": fan_in_fan_out}
    arrays = {PEFT_PREFIX + name: np.asarray(array, np.float32) for name, array in state.items()}
    for module, vector in adapter.magnitudes.items():
        arrays[f"{PEFT_PREFIX}{module}.{MAGNITUDE}"] = np.asarray(vector, np.float32)
    files: dict[str, str | bytes] = {
        "adapter_config.json": json.dumps(config, indent=2, sort_keys=True) + "\n",
        RECORD: json.dumps(dict(record or {}), indent=2, ensure_ascii=False) + "\n",
        **({"README.md": readme} if readme else {}),
        **(extra_files or {}),
    }
    header = {"format": "pt"}
    if architecture_of(adapter.ranks) is ACESTEP:  # diffusers reads the arrays, and the scale from the header alone
        header |= diffusers_header(adapter, ACESTEP)
    with atomic_folder(Path(folder), overwrite=overwrite) as temporary:
        write_safetensors(temporary / "adapter_model.safetensors", arrays, header)
        for name, content in files.items():
            atomic_write(temporary / Path(name).name, content)


def read_peft(folder: Path) -> LoraAdapter:
    """Read a PEFT LoRA or DoRA folder; accept a missing `base_model.model.` and a `.default` infix.

    Raises:
        ConvertError: not such a folder, another kind of adapter (named), or arrays that are missing, surplus,
            mis-shaped or non-finite, all at once.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise ConvertError(f"{folder}: no adapter_config.json here, so this is no PEFT adapter folder")
    config = read_config(folder / "adapter_config.json")
    refuse_others(config, str(folder), dora=True)
    found = _read_arrays(folder)
    modules = state_modules(found.state)
    if not modules:
        raise ConvertError(f"{folder}: there is no LoRA array in its adapter_model file")
    resolved = {module: module_scale(config, module, str(folder)) for module in modules}
    spec = _read_spec(config, modules, str(folder))
    if len(set(resolved.values())) == 1:  # patterns may say one thing of all modules
        rank, scale = resolved[modules[0]]
        same = (rank, scale) == (spec.rank, spec.scale)
        spec = spec if same else replace(spec, rank=rank, alpha=alpha_for(scale, rank), rslora=False)
    adapter = LoraAdapter(
        spec,
        found.state,
        named_base(config),
        read_record(folder),
        config,
        {module: rank for module, (rank, _) in resolved.items()},
        {module: scale for module, (_, scale) in resolved.items()},
        found.magnitudes,
        found.embeddings,
    )
    adapter.check_arrays(str(folder))
    _check_targets(spec, modules, str(folder))
    if problems := left_out(config, modules):
        raise ConvertError(f"{folder}: adapter_config.json: {join_problems(problems)}; PEFT would leave the arrays out")
    return _with_canonical_names(adapter)


def read_peft_file(path: Path) -> LoraAdapter:
    """Read an adapter_model file of GPT-2 without its configuration; alpha is the rank.

    Raises:
        ConvertError: arrays that are missing, mis-shaped or non-finite.
    """
    found = sort_arrays(iter_safetensors(path), PEFT_PREFIX, str(path))
    if problems := rank_problems(found.state):
        raise ConvertError(f"{path}: {join_problems(problems)}")
    ranks = {module: rank_of(found.state, module) for module in state_modules(found.state)}
    rank = max(ranks.values())
    adapter = LoraAdapter(
        LoraSpec(rank, float(rank), 0.0, tuple(ranks)),
        found.state,
        "",
        {},
        {},
        ranks,
        dict.fromkeys(ranks, 1.0),
        found.magnitudes,
        found.embeddings,
        (UNSTATED_ALPHA,),
    )
    adapter.check_arrays(str(path))
    return adapter


def _with_canonical_names(adapter: LoraAdapter) -> LoraAdapter:
    """Rename the modules of an audio adapter that was trained on another root, or with diffusers' names.

    DiffRhythm's CFM and ACE-Step's whole model hold the transformer one level down.
    """
    found = {module: find_module(module) for module in adapter.ranks}
    modules = {module: name for module, name in found.items() if name is not None}
    names = architecture_of(modules.values())
    if len(modules) < len(found) or names is None or all(module == name for module, name in modules.items()):
        return adapter

    def rename(values: Mapping[str, Any]) -> dict[str, Any]:
        return {modules[module]: value for module, value in values.items()}

    state = {}
    for module, name in modules.items():
        for old, new in zip(state_keys(module), state_keys(name), strict=True):
            state[new] = adapter.state[old]
    targets = tuple(find_module(target) or names.from_diffusers(target) for target in adapter.spec.targets)
    return replace(
        adapter,
        spec=replace(adapter.spec, targets=targets),
        state=state,
        ranks=rename(adapter.ranks),
        scales=rename(adapter.scales),
        magnitudes=rename(adapter.magnitudes),
    )


def _read_arrays(folder: Path) -> PeftArrays:
    path, old = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    if path.is_file():
        arrays = iter_safetensors(path)
    elif old.is_file():
        path, file = old, TorchFile(old)
        arrays = file.read(file.tensors().items())
    else:
        raise ConvertError(f"{folder}: no adapter_model.safetensors here")
    return sort_arrays(arrays, PEFT_PREFIX, str(path))


def _read_spec(config: Mapping[str, Any], modules: list[str], where: str) -> LoraSpec:
    targets = config.get("target_modules")
    by_name = isinstance(targets, list) and targets and all(isinstance(target, str) for target in targets)
    # A regular expression, or a list cut down by other keys: full paths say exactly which modules are meant.
    cuts = (config.get(key) for key in ("layers_to_transform", "exclude_modules", "layers_pattern"))
    if not by_name or any(cut not in (None, "", []) for cut in cuts):  # layer 0 is one, too
        targets = modules
    try:
        rank, alpha, dropout = config.get("r", 8), config.get("lora_alpha", 8), config.get("lora_dropout", 0.0)
        return LoraSpec(rank, float(alpha), float(dropout), tuple(targets or ()), bool(config.get("use_rslora")))
    except ConfigError as error:
        raise ConvertError(f"{where}: adapter_config.json: {error}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise ConvertError(f"{where}: adapter_config.json lacks a usable r, lora_alpha or lora_dropout") from error


def _check_targets(spec: LoraSpec, modules: list[str], where: str) -> None:
    surplus = [module for module in modules if not is_target(module, spec.targets)]
    problems = [f"{module} has arrays but is no target module" for module in surplus]
    problems += [f"the target module {target} has no arrays" for target in unmatched_targets(modules, spec.targets)]
    if problems:
        raise ConvertError(f"{where}: {join_problems(problems)}")
