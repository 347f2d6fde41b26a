"""LoRA files in kohya's format (sd-scripts, ComfyUI), for the audio family."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from musiclora.convert.adapters.audio_adapter import build_adapter, check_audio_adapter, header_object
from musiclora.convert.adapters.audio_arrays import FLAT_PREFIXES, sort_lora_arrays
from musiclora.convert.adapters.lora import alpha_for, state_keys
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.files.atomic import atomic_file
from musiclora.convert.files.fingerprint import RECORD_KIND
from musiclora.convert.files.safetensors_file import iter_safetensors, safetensors_header, write_safetensors

_RECORD_KEY, _BASE_KEY = "musiclora", "ss_sd_model_name"  # header texts: our record, and kohya's key for the base


def is_kohya(names: Iterable[str]) -> bool:
    """Check a file's names for those of kohya and of tools with its names."""
    return any(name.startswith(FLAT_PREFIXES) or ".lora_down." in name for name in names)


def write_kohya(path: Path, adapter: LoraAdapter) -> None:
    """Write one .safetensors file, whole or not at all.

    Alpha is stored for every module, DoRA's magnitudes as dora_scale [out, 1] as in LyCORIS, the record in the header.

    Raises:
        ConvertError: modules that no architecture has, or arrays that do not fit.
        OutputError: the system refuses to write.
    """
    names = check_audio_adapter(adapter, str(path))
    _write_file(path, adapter, {m: names.kohya_prefix + m.replace(".", "_") for m in adapter.ranks})


def write_comfyui(path: Path, adapter: LoraAdapter) -> None:
    """Write one .safetensors file with ComfyUI's dotted names, whole or not at all; the content is `write_kohya`'s.

    Raises:
        ConvertError: modules that no architecture has, or arrays that do not fit.
        OutputError: the system refuses to write.
    """
    names = check_audio_adapter(adapter, str(path))
    _write_file(path, adapter, {module: names.comfyui_prefix + module for module in adapter.ranks})


def _write_file(path: Path, adapter: LoraAdapter, names: Mapping[str, str]) -> None:
    """Write the arrays of every module under its name in the file."""
    arrays: dict[str, np.ndarray] = {}
    for module, rank in adapter.ranks.items():
        key_a, key_b = state_keys(module)
        name = names[module]
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
    """Read a file with kohya's names, flat or with dots; a module without alpha has scale 1.

    Raises:
        ConvertError: another kind of adapter (named), modules that no architecture has, or arrays that do not fit.
    """
    _, metadata = safetensors_header(path)
    found = sort_lora_arrays(iter_safetensors(path), str(path))
    return build_adapter(
        found.state,
        found.scales(),
        str(path),
        base_model=metadata.get(_BASE_KEY, ""),
        record=header_object(metadata, _RECORD_KEY, str(path), RECORD_KIND),
        magnitudes=found.magnitudes,
        notes=found.notes(),
    )


def _encode_alpha(alpha: float) -> np.ndarray:
    """Store an alpha in float32, or in float64 where float32 would round it; readers take any float."""
    short = np.array(alpha, np.float32)
    return short if float(short) == alpha else np.array(alpha, np.float64)
