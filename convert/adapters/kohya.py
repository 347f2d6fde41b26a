"""LoRA files in kohya's format (sd-scripts, ComfyUI), for the audio family."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from musiclora.convert.adapters.diffrhythm_modules import (
    build_adapter,
    check_diffrhythm_adapter,
    header_object,
    known_modules,
)
from musiclora.convert.adapters.lora import alpha_for, describe_foreign_array, state_keys, state_modules
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.peft_config import LARGEST_ALPHA
from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.atomic import atomic_file
from musiclora.convert.files.fingerprint import RECORD_KIND
from musiclora.convert.files.safetensors_file import read_safetensors, safetensors_header, write_safetensors

_PREFIX = "lora_unet_"
_ARRAY_NAME = re.compile(
    rf"{_PREFIX}(?P<flat>\w+)\.(?P<part>lora_down\.weight|lora_up\.weight|alpha|dora_scale)", re.ASCII
)
_OTHER_METHODS = {"lora_mid": "Tucker", "lora_te": "text encoder"}
_RECORD_KEY, _BASE_KEY = "musiclora", "ss_sd_model_name"  # header texts: our record, and kohya's key for the base


def is_kohya(names: Iterable[str]) -> bool:
    """Check a file's names for those of kohya."""
    return any(name.startswith("lora_unet_") or ".lora_down." in name for name in names)


def write_kohya(path: Path, adapter: LoraAdapter) -> None:
    """Write one .safetensors file, whole or not at all.

    Alpha is stored for every module, DoRA's magnitudes as dora_scale [out, 1] as in LyCORIS, the record in the header.

    Raises:
        ConvertError: modules that DiffRhythm lacks, or arrays that do not fit.
        OutputError: the system refuses to write.
    """
    check_diffrhythm_adapter(adapter, str(path))
    arrays: dict[str, np.ndarray] = {}
    for module, rank in adapter.ranks.items():
        key_a, key_b = state_keys(module)
        name = _PREFIX + module.replace(".", "_")
        arrays[f"{name}.lora_down.weight"] = np.asarray(adapter.state[key_a], np.float32)
        arrays[f"{name}.lora_up.weight"] = np.asarray(adapter.state[key_b], np.float32)
        arrays[f"{name}.alpha"] = _encode_alpha(alpha_for(adapter.scales[module], rank))
        if adapter.magnitudes:
            arrays[f"{name}.dora_scale"] = np.asarray(adapter.magnitudes[module], np.float32)[:, None]
    spec = adapter.spec
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(spec.rank),
        "ss_network_alpha": repr(alpha_for(spec.scale, spec.rank)),
        _BASE_KEY: adapter.base_model,
        _RECORD_KEY: json.dumps(adapter.record, ensure_ascii=False),
    }
    with atomic_file(path) as temporary:
        write_safetensors(temporary, arrays, metadata)


def read_kohya(path: Path) -> LoraAdapter:
    """Read a kohya file; a module without alpha has scale 1.

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
        match = _ARRAY_NAME.fullmatch(name)
        if match is None:
            problems.append(describe_foreign_array(name, _OTHER_METHODS))
        elif match["flat"] not in flat:
            problems.append(f"{name} is no linear layer of DiffRhythm")
        elif match["part"] == "alpha":
            if array.size != 1 or not abs(float(array.reshape(-1)[0])) <= LARGEST_ALPHA:
                problems.append(f"{name} is no single finite number")
            else:
                alphas[flat[match["flat"]]] = float(array.reshape(-1)[0])
        elif match["part"] == "dora_scale":
            if array.ndim == 2 and array.shape[1] == 1:
                magnitudes[flat[match["flat"]]] = array[:, 0]
            else:
                # LyCORIS without wd_on_out keeps lengths of columns; on a square matrix only the shape tells.
                problems.append(f"{name} is {list(array.shape)}, only DoRA over outputs, [out, 1], is supported")
        else:
            key_a, key_b = state_keys(flat[match["flat"]])
            state[key_a if "down" in match["part"] else key_b] = array
    if problems:
        raise ConvertError(f"{path}: {join_problems(problems)}")
    ranks = {module: len(state.get(state_keys(module)[0], ())) for module in state_modules(state)}
    scales = {module: alphas[module] / rank if module in alphas and rank else 1.0 for module, rank in ranks.items()}
    return build_adapter(
        state,
        scales,
        str(path),
        base_model=metadata.get(_BASE_KEY, ""),
        record=header_object(metadata, _RECORD_KEY, str(path), RECORD_KIND),
        magnitudes=magnitudes,
    )


def _encode_alpha(alpha: float) -> np.ndarray:
    """Store an alpha in float32, or in float64 where float32 would round it; readers take any float."""
    short = np.array(alpha, np.float32)
    return short if float(short) == alpha else np.array(alpha, np.float64)
