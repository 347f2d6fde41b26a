"""LoRA folders in diffusers' form, for the audio family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.adapters.diffrhythm_modules import adapter_of, audio_modules_of, header_object
from musiclora.convert.adapters.lora import (
    MAGNITUDE,
    MAGNITUDE_KEY,
    STATE_KEY,
    LoraSpec,
    check_magnitudes,
    no_lora_array,
    state_keys,
    state_modules,
)
from musiclora.convert.adapters.peft import PeftAdapter
from musiclora.convert.adapters.peft_config import Own, lora_config, module_scale, refuse_others
from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.atomic import atomic_folder, atomic_write
from musiclora.convert.files.safetensors_file import read_safetensors, safetensors_header, write_safetensors
from musiclora.convert.files.weight_files import read_json

FILE = "pytorch_lora_weights.safetensors"
_PREFIX = "transformer."
_CONFIG = "lora_adapter_metadata"


def write_diffusers(
    folder: Path,
    spec: LoraSpec,
    state: Mapping[str, np.ndarray],
    *,
    base_model: str,
    own: Own | None = None,
    magnitudes: Mapping[str, np.ndarray] | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write pytorch_lora_weights.safetensors in a folder, whole or not at all; alpha is in its header.

    Args:
        folder: destination.
        spec: rank and scale of all modules.
        state: canonical keys, A [rank, in] and B [out, rank].
        base_model: what the adapter belongs to.
        own: rank and scale of every module, where they differ from those of spec.
        magnitudes: of a DoRA adapter, one vector [out] a module.
        record: content of musiclora.json, written beside it.

    Raises:
        ConvertError: modules that DiffRhythm lacks.
        OutputError: the system refuses to write.
    """
    audio_modules_of(state, str(folder))
    if magnitudes:
        check_magnitudes(magnitudes, state, str(folder))
    config = lora_config(spec, own, dora=bool(magnitudes))
    config["base_model_name_or_path"] = base_model
    header = {"format": "pt", _CONFIG: json.dumps({_PREFIX + key: config[key] for key in sorted(config)}, indent=2)}
    named = {**state, **{f"{module}.{MAGNITUDE}": vector for module, vector in (magnitudes or {}).items()}}
    arrays = {_PREFIX + name: np.asarray(array, np.float32) for name, array in named.items()}
    with atomic_folder(Path(folder)) as temporary:
        write_safetensors(temporary / FILE, arrays, header)
        atomic_write(temporary / "musiclora.json", json.dumps(dict(record or {}), indent=2, ensure_ascii=False) + "\n")


def read_diffusers(path: Path) -> PeftAdapter:
    """Read such a folder, or its file, into the native form; without settings in the header alpha is the rank.

    Raises:
        ConvertError: another kind of adapter (named), or arrays that do not fit.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    _, metadata = safetensors_header(file)
    state: dict[str, np.ndarray] = {}
    magnitudes: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for name, array in read_safetensors(file).items():
        plain = name.removeprefix(_PREFIX)
        if vector := MAGNITUDE_KEY.fullmatch(plain):
            magnitudes[vector["module"]] = array
            continue
        match = STATE_KEY.fullmatch(plain)
        if match is None:
            problems.append(no_lora_array(name))
            continue
        keys = state_keys(match["module"])
        state[keys[match["part"] == "B"]] = array
    if problems:
        raise ConvertError(f"{file}: {join_problems(problems)}")
    config = _config(metadata, str(file))
    if config.get("use_dora") and not magnitudes:
        raise ConvertError(f"{file}: a DoRA adapter without its magnitude vectors (lora_magnitude_vector)")
    modules = state_modules(state)
    scales = {module: module_scale(config, module, str(file))[1] if config else 1.0 for module in modules}
    record = path / "musiclora.json"
    return adapter_of(
        state,
        scales,
        str(file),
        str(config.get("base_model_name_or_path") or ""),
        read_json(record) if path.is_dir() and record.is_file() else {},
        magnitudes,
    )


def _config(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """PEFT's settings from the header, whose keys may carry the component's name; empty where there are none."""
    found = header_object(metadata, _CONFIG, where)
    if not found:
        return {}
    config = {"peft_type": "LORA"} | {key.removeprefix(_PREFIX): value for key, value in found.items()}
    refuse_others(config, where, dora=True)
    return config
