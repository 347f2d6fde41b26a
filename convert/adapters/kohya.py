"""LoRA files in kohya's form (sd-scripts, ComfyUI), for the audio family."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.adapters.diffrhythm_modules import adapter_of, audio_modules_of, header_object, known_modules
from musiclora.convert.adapters.lora import (
    LoraSpec,
    alpha_for,
    check_magnitudes,
    no_lora_array,
    state_keys,
    state_modules,
)
from musiclora.convert.adapters.peft import PeftAdapter
from musiclora.convert.adapters.peft_config import Own
from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.atomic import atomic_file
from musiclora.convert.files.safetensors_file import read_safetensors, safetensors_header, write_safetensors

_PREFIX = "lora_unet_"
_KEY = re.compile(rf"{_PREFIX}(?P<flat>\w+)\.(?P<part>lora_down\.weight|lora_up\.weight|alpha|dora_scale)", re.ASCII)
_LARGEST = 3.4e38  # an alpha is kept in float32
_OTHER = {"lora_mid": "Tucker", "lora_te": "text encoder"}
_RECORD, _BASE = "musiclora", "ss_sd_model_name"  # header texts: our record, and kohya's key for the base


def is_kohya(names: Mapping[str, Any]) -> bool:
    """Whether a file's names are kohya's."""
    return any(name.startswith("lora_unet_") or ".lora_down." in name for name in names)


def write_kohya(
    path: Path,
    spec: LoraSpec,
    state: Mapping[str, np.ndarray],
    *,
    base_model: str,
    own: Own | None = None,
    magnitudes: Mapping[str, np.ndarray] | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write one .safetensors file, whole or not at all; alpha is stored for every module.

    Args:
        path: destination.
        spec: rank and scale of all modules.
        state: canonical keys, A [rank, in] and B [out, rank].
        base_model: what the adapter belongs to.
        own: rank and scale of every module, where they differ from those of spec.
        magnitudes: of a DoRA adapter, one vector [out] a module; kept as dora_scale [out, 1], as LyCORIS does.
        record: content of musiclora.json, kept in the header.

    Raises:
        ConvertError: modules that DiffRhythm lacks.
        OutputError: the system refuses to write.
    """
    modules = audio_modules_of(state, str(path))
    if magnitudes:
        check_magnitudes(magnitudes, state, str(path))
    arrays: dict[str, np.ndarray] = {}
    for module in modules:
        key_a, key_b = state_keys(module)
        name = _PREFIX + module.replace(".", "_")
        arrays[f"{name}.lora_down.weight"] = np.asarray(state[key_a], np.float32)
        arrays[f"{name}.lora_up.weight"] = np.asarray(state[key_b], np.float32)
        rank, scale = own[module] if own else (spec.rank, spec.scale)
        arrays[f"{name}.alpha"] = _alpha(alpha_for(scale, rank))
        if magnitudes:
            arrays[f"{name}.dora_scale"] = np.asarray(magnitudes[module], np.float32)[:, None]
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(spec.rank),
        "ss_network_alpha": repr(alpha_for(spec.scale, spec.rank)),
        _BASE: base_model,
        _RECORD: json.dumps(dict(record or {}), ensure_ascii=False),
    }
    with atomic_file(path) as temporary:
        write_safetensors(temporary, arrays, metadata)


def read_kohya(path: Path) -> PeftAdapter:
    """Read a kohya file into the native form; a module without alpha has scale 1.

    Raises:
        ConvertError: another kind of adapter (named), names that DiffRhythm lacks, or arrays that do not fit.
    """
    _, metadata = safetensors_header(path)
    flat = {module.replace(".", "_"): module for module in known_modules()}
    state: dict[str, np.ndarray] = {}
    alphas: dict[str, float] = {}
    magnitudes: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for name, array in read_safetensors(path).items():
        match = _KEY.fullmatch(name)
        if match is None:
            problems.append(no_lora_array(name, _OTHER))
        elif match["flat"] not in flat:
            problems.append(f"{name} is no linear layer of DiffRhythm")
        elif match["part"] == "alpha":
            if array.size != 1 or not abs(float(array.reshape(-1)[0])) <= _LARGEST:
                problems.append(f"{name} is no single finite number")
            else:
                alphas[flat[match["flat"]]] = float(array.reshape(-1)[0])
        elif match["part"] == "dora_scale":
            if array.ndim == 2 and array.shape[1] == 1:
                magnitudes[flat[match["flat"]]] = array[:, 0]
            else:
                # LyCORIS without wd_on_out: lengths of columns; where the matrix is square, only the shape tells.
                problems.append(f"{name} is {list(array.shape)}, only DoRA over outputs, [out, 1], is supported")
        else:
            key_a, key_b = state_keys(flat[match["flat"]])
            state[key_a if "down" in match["part"] else key_b] = array
    if problems:
        raise ConvertError(f"{path}: {join_problems(problems)}")
    ranks = {module: len(state.get(state_keys(module)[0], ())) for module in state_modules(state)}
    scales = {module: alphas[module] / rank if module in alphas and rank else 1.0 for module, rank in ranks.items()}
    record = header_object(metadata, _RECORD, str(path))
    return adapter_of(state, scales, str(path), metadata.get(_BASE, ""), record, magnitudes)


def _alpha(alpha: float) -> np.ndarray:
    """An alpha in float32, or in float64 where that would round it: readers take any float."""
    short = np.array(alpha, np.float32)
    return short if float(short) == alpha else np.array(alpha, np.float64)
