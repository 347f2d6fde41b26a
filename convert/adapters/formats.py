"""Adapter formats by name, and recognition of a file's or folder's format.

Another format is one file with a reader and a writer, its lines here, and its name in `FamilySpec.adapter_formats` and
the choices of `convert adapter`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from musiclora.convert.adapters.diffusers import FILE, read_diffusers, write_diffusers
from musiclora.convert.adapters.kohya import is_kohya, read_kohya, write_comfyui, write_kohya
from musiclora.convert.adapters.lora import state_modules
from musiclora.convert.adapters.lora_adapter import LoraAdapter
from musiclora.convert.adapters.lora_music_generation import read_lora_music_generation
from musiclora.convert.adapters.mlx_lm import is_mlx_lm, read_mlx_lm, write_mlx_lm
from musiclora.convert.adapters.peft import read_peft, read_peft_file
from musiclora.convert.adapters.peft_config import PEFT_PREFIX
from musiclora.convert.errors import ConvertError
from musiclora.convert.files.json_file import read_json
from musiclora.convert.files.safetensors_file import safetensors_header
from musiclora.convert.files.torch_file import TORCH_SUFFIXES
from musiclora.convert.models.gpt2 import owns_gpt2_modules

READERS: dict[str, Callable[[Path], LoraAdapter]] = {
    "peft": read_peft,
    "mlx-lm": read_mlx_lm,
    "diffusers": read_diffusers,
    "comfyui": read_kohya,
    "kohya": read_kohya,
}
# PEFT, the native format, holds more than an adapter; `write_peft` takes the rest as arguments.
WRITERS: dict[str, Callable[[Path, LoraAdapter], None]] = {
    "mlx-lm": write_mlx_lm,
    "diffusers": write_diffusers,
    "comfyui": write_comfyui,
    "kohya": write_kohya,
}
SINGLE_FILES = ("comfyui", "kohya")  # formats of one file; the others are folders


def read_any_file(path: Path) -> LoraAdapter:
    """Read an adapter file, recognised by its names.

    Raises:
        ConvertError: no known format, or an adapter that does not fit.
    """
    if path.suffix in TORCH_SUFFIXES:
        return read_lora_music_generation(path)
    try:
        names, _ = safetensors_header(path)
    except ConvertError as error:
        if path.suffix == ".safetensors":
            raise
        text = f"{path}: no adapter; expected a folder, a .safetensors file of kohya or diffusers, or a .pt"
        raise ConvertError(text) from error
    if is_kohya(names):
        return read_kohya(path)
    if (path.parent / "adapter_config.json").is_file():
        raise ConvertError(f"{path}: give its folder, {path.parent}: the settings are in the file beside it")
    modules = state_modules(name.removeprefix(PEFT_PREFIX) for name in names)
    return read_peft_file(path) if modules and owns_gpt2_modules(modules) else read_diffusers(path)


def read_any_folder(path: Path) -> LoraAdapter:
    """Read an adapter folder, recognised by its files; PEFT is assumed where nothing tells.

    Raises:
        ConvertError: an adapter that does not fit.
    """
    config = path / "adapter_config.json"
    if not config.is_file() and (path / FILE).is_file():
        return read_diffusers(path)
    return read_mlx_lm(path) if config.is_file() and is_mlx_lm(read_json(config)) else read_peft(path)
