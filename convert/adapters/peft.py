"""LoRA adapters as PEFT folders, the native format here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.adapters.lora import (
    MAGNITUDE,
    MAGNITUDE_KEY,
    STATE_KEY,
    LoraSpec,
    alpha_for,
    check_magnitudes,
    check_state,
    no_lora_array,
    own_shapes,
    state_keys,
    state_modules,
)
from musiclora.convert.adapters.peft_config import PEFT_PREFIX, Own, lora_config, module_scale, refuse_others
from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.atomic import atomic_folder, atomic_write
from musiclora.convert.files.safetensors_file import Arrays, iter_safetensors, write_safetensors
from musiclora.convert.files.torch_file import TorchFile
from musiclora.convert.files.weight_files import read_json


@dataclass(frozen=True)
class PeftAdapter:
    """A PEFT folder's content.

    Attributes:
        spec: its settings; rank and alpha are those of adapter_config.json, and hold for every module only if
            `is_uniform`.
        state: float32 arrays, `<module>.lora_A.weight` [rank, in] and `<module>.lora_B.weight` [out, rank].
        base_model: what it says it was trained on, "" where it says nothing.
        record: content of musiclora.json, empty where there is none.
        config: content of adapter_config.json.
        ranks: rank of every module.
        scales: multiplier of B @ A of every module.
        magnitudes: of a DoRA adapter (Liu et al. 2024, arXiv 2402.09353), one vector [out] a module; else empty.
    """

    spec: LoraSpec
    state: dict[str, np.ndarray]
    base_model: str
    record: dict[str, Any]
    config: dict[str, Any]
    ranks: dict[str, int]
    scales: dict[str, float]
    magnitudes: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def is_uniform(self) -> bool:
        """Whether one rank and one scale hold for every module."""
        return set(self.ranks.values()) == {self.spec.rank} and set(self.scales.values()) == {self.spec.scale}

    @property
    def own(self) -> Own | None:
        """Rank and scale of every module where they differ, as the writers take them; None where they do not."""
        return None if self.is_uniform else {m: (rank, self.scales[m]) for m, rank in self.ranks.items()}


def write_peft(
    folder: Path,
    spec: LoraSpec,
    state: Arrays,
    *,
    base_model: str,
    own: Own | None = None,
    magnitudes: Arrays | None = None,
    task_type: str | None = "CAUSAL_LM",
    fan_in_fan_out: bool = True,
    record: Mapping[str, Any] | None = None,
    readme: str = "",
    extra_files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a folder that vanilla `PeftModel.from_pretrained` loads, whole or not at all.

    Args:
        folder: destination.
        spec: the adapter's settings.
        state: canonical keys; kept as float32.
        base_model: what the adapter belongs to (a Hub id or a name, never a private path).
        own: rank and scale of every module, where they differ from those of spec.
        magnitudes: of a DoRA adapter, one vector [out] a module.
        task_type: CAUSAL_LM for GPT-2, None for a model that PEFT knows no task of.
        fan_in_fan_out: True for GPT-2, whose layers are Conv1D.
        record: content of musiclora.json.
        readme: content of README.md; none is written where it is empty.
        extra_files: more files by plain name.
        overwrite: replace an existing folder; until the new one is complete the old one stays.

    Raises:
        ConvertError: arrays that are missing, surplus, mis-shaped or non-finite.
        OutputError: the system refuses to write.
    """
    modules = state_modules(state)
    ranks = {module: own[module][0] if own else spec.rank for module in modules}
    check_state(state, own_shapes(state, ranks), str(folder))
    if unused := [t for t in spec.targets if not any(m == t or m.endswith("." + t) for m in modules)]:
        raise ConvertError(f"{folder}: no array for the target modules {join_problems(unused)}")
    if magnitudes:
        check_magnitudes(magnitudes, state, str(folder))
    config = lora_config(spec, own, dora=bool(magnitudes))
    config |= {"base_model_name_or_path": base_model, "task_type": task_type, "fan_in_fan_out": fan_in_fan_out}
    arrays = {PEFT_PREFIX + name: np.asarray(array, np.float32) for name, array in state.items()}
    vectors = (magnitudes or {}).items()
    arrays |= {f"{PEFT_PREFIX}{module}.{MAGNITUDE}": np.asarray(vector, np.float32) for module, vector in vectors}
    files: dict[str, str | bytes] = {
        "adapter_config.json": json.dumps(config, indent=2, sort_keys=True) + "\n",
        "musiclora.json": json.dumps(dict(record or {}), indent=2, ensure_ascii=False) + "\n",
        **({"README.md": readme} if readme else {}),
        **(extra_files or {}),
    }
    with atomic_folder(Path(folder), overwrite=overwrite) as temporary:
        write_safetensors(temporary / "adapter_model.safetensors", arrays, {"format": "pt"})
        for name, content in files.items():
            atomic_write(temporary / Path(name).name, content)


def read_peft(folder: Path) -> PeftAdapter:
    """Read a PEFT LoRA or DoRA folder; a missing `base_model.model.` and a `.default` infix are accepted.

    Raises:
        ConvertError: not such a folder, another kind of adapter (named), or arrays that are missing, surplus,
            mis-shaped or non-finite, all at once.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise ConvertError(f"{folder}: no adapter_config.json here, so this is no PEFT adapter folder")
    config = read_json(folder / "adapter_config.json")
    refuse_others(config, str(folder), dora=True)
    state, magnitudes = _read_state(folder)
    modules = state_modules(state)
    if not modules:
        raise ConvertError(f"{folder}: there is no LoRA array in its adapter_model file")
    resolved = {module: module_scale(config, module, str(folder)) for module in modules}
    spec = _spec(config, modules, str(folder))
    ranks = {module: rank for module, (rank, _) in resolved.items()}
    check_state(state, own_shapes(state, ranks), str(folder))
    if magnitudes or config.get("use_dora"):
        check_magnitudes(magnitudes, state, str(folder))
    _check_targets(spec, modules, str(folder))
    record = read_json(folder / "musiclora.json") if (folder / "musiclora.json").is_file() else {}
    scales = {module: scale for module, (_, scale) in resolved.items()}
    return PeftAdapter(
        spec, state, str(config.get("base_model_name_or_path") or ""), record, config, ranks, scales, magnitudes
    )


def make_uniform(adapter: PeftAdapter) -> tuple[LoraSpec, dict[str, np.ndarray]]:
    """The same update with one rank and one scale: ranks padded with zeros, ratios of scales folded into B."""
    if adapter.is_uniform:
        return adapter.spec, dict(adapter.state)
    spec, rank = adapter.spec, max(adapter.ranks.values())
    scale = max(adapter.scales.values(), key=abs)
    state: dict[str, np.ndarray] = {}
    for module, own in adapter.ranks.items():
        key_a, key_b = state_keys(module)
        ratio = np.float32(adapter.scales[module] / scale) if scale else np.float32(1)
        state[key_a] = np.pad(adapter.state[key_a], ((0, rank - own), (0, 0)))
        state[key_b] = np.pad(adapter.state[key_b] * ratio, ((0, 0), (0, rank - own)))
    return LoraSpec(rank, alpha_for(scale, rank), spec.dropout, spec.targets, rslora=False), state


def _read_state(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A and B by state key, and DoRA's magnitudes by module."""
    path, old = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    if path.is_file():
        arrays = iter_safetensors(path)
    elif old.is_file():
        path, file = old, TorchFile(old)
        arrays = file.read(file.tensors().items())
    else:
        raise ConvertError(f"{folder}: no adapter_model.safetensors here")
    state: dict[str, np.ndarray] = {}
    magnitudes: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for name, array in arrays:
        if vector := MAGNITUDE_KEY.fullmatch(name.removeprefix(PEFT_PREFIX)):
            magnitudes[vector["module"]] = np.asarray(array, np.float32)
            continue
        match = STATE_KEY.fullmatch(name.removeprefix(PEFT_PREFIX))
        if match is None:
            problems.append(no_lora_array(name))
            continue
        key = f"{match['module']}.lora_{match['part']}.weight"
        if key in state:
            problems.append(f"{key} comes twice")
        state[key] = np.asarray(array, np.float32)
    if problems:
        raise ConvertError(f"{path}: {join_problems(problems)}")
    return state, magnitudes


def _spec(config: Mapping[str, Any], modules: list[str], where: str) -> LoraSpec:
    targets = config.get("target_modules")
    by_name = isinstance(targets, list) and targets and all(isinstance(target, str) for target in targets)
    # A regular expression, or a list cut down by other keys: full paths say exactly which modules are meant.
    if not by_name or any(config.get(key) for key in ("layers_to_transform", "exclude_modules", "layers_pattern")):
        targets = modules
    try:
        rank, alpha, dropout = config["r"], config.get("lora_alpha", 8), config.get("lora_dropout", 0.0)
        return LoraSpec(rank, float(alpha), float(dropout), tuple(targets or ()), bool(config.get("use_rslora")))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConvertError(f"{where}: adapter_config.json lacks a usable r, lora_alpha or lora_dropout") from error


def _check_targets(spec: LoraSpec, modules: list[str], where: str) -> None:
    surplus = [m for m in modules if not any(m == t or m.endswith("." + t) for t in spec.targets)]
    missing = [t for t in spec.targets if not any(m == t or m.endswith("." + t) for m in modules)]
    problems = [f"{module} has arrays but is no target module" for module in surplus]
    problems += [f"the target module {target} has no arrays" for target in missing]
    if problems:
        raise ConvertError(f"{where}: {join_problems(problems)}")
