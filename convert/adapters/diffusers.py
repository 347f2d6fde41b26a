"""LoRA folders in diffusers' format, for the audio family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.adapters.audio_adapter import build_adapter, check_audio_adapter, header_object
from musiclora.convert.adapters.audio_arrays import sort_lora_arrays
from musiclora.convert.adapters.audio_modules import architecture_of
from musiclora.convert.adapters.diffusers_header import CONFIG_KEY, PREFIX, diffusers_header
from musiclora.convert.adapters.lora import MAGNITUDE, state_modules
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.peft_config import module_scale
from musiclora.convert.adapters.peft_keys import refuse_others
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.atomic import atomic_folder, write_json
from musiclora.convert.files.fingerprint import RECORD, read_record
from musiclora.convert.files.safetensors_file import iter_safetensors, safetensors_header, write_safetensors

FILE = "pytorch_lora_weights.safetensors"


def write_diffusers(folder: Path, adapter: LoraAdapter) -> None:
    """Write pytorch_lora_weights.safetensors in a folder, whole or not at all; alpha is in its header.

    Raises:
        ConvertError: modules that no architecture has, or arrays that do not fit.
        OutputError: the system refuses to write.
    """
    names = check_audio_adapter(adapter, str(folder))
    vectors = {f"{module}.{MAGNITUDE}": vector for module, vector in adapter.magnitudes.items()}
    named = (adapter.state | vectors).items()
    arrays = {PREFIX + names.to_diffusers(name): np.asarray(array, np.float32) for name, array in named}
    with atomic_folder(Path(folder)) as temporary:
        write_safetensors(temporary / FILE, arrays, {"format": "pt", **diffusers_header(adapter, names)})
        write_json(temporary / RECORD, adapter.record)


def read_diffusers(path: Path) -> LoraAdapter:
    """Read such a folder, or a file with PEFT's or ComfyUI's names.

    An alpha beside the arrays counts, then the settings in the header; without both, alpha is the rank.

    Raises:
        ConvertError: another kind of adapter (named), or arrays that do not fit.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    _, metadata = safetensors_header(file)
    found = sort_lora_arrays(iter_safetensors(file), str(file))
    config = _read_settings(metadata, str(file))
    if config.get("use_dora") and not found.magnitudes:
        raise ConvertError(f"{file}: a DoRA adapter without its magnitude vectors (lora_magnitude_vector)")
    modules = state_modules(found.state)
    names = architecture_of(modules)
    theirs = {module: names.to_diffusers(module) if names else module for module in modules}
    stated = {m: module_scale(config, theirs[m], str(file))[1] for m in modules} if config else None
    return build_adapter(
        found.state,
        found.scales(stated),
        str(file),
        base_model=str(config.get("base_model_name_or_path") or ""),
        record=read_record(path) if path.is_dir() else {},
        magnitudes=found.magnitudes,
        notes=() if config else found.notes(),
    )


def _read_settings(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """Read PEFT's settings from the header; keys may carry the component's name. Empty where there are none."""
    found = header_object(metadata, CONFIG_KEY, where)
    if not found:
        return {}
    config = {"peft_type": "LORA"} | {key.removeprefix(PREFIX): value for key, value in found.items()}
    refuse_others(config, where, dora=True)
    return config
