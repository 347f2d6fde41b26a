"""The job behind `musiclora convert model`: weights in another layout, checked after writing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from musiclora.conversion.protocols import ConvertModel, IsModelSource, ModelConversion
from musiclora.conversion.update_arrival import note_lost_update
from musiclora.conversion.verify import Converted, check_destination
from musiclora.convert.errors import printable
from musiclora.convert.files.checkpoint_source import open_source
from musiclora.convert.files.json_file import read_optional_json
from musiclora.errors import ConvertError, join_problems
from musiclora.families import SPECS, FamilySpec, resolve
from musiclora.formats import expand_home
from musiclora.models import find_model
from musiclora.progress import Reporter


def convert_model(
    source: str | Path,
    destination: Path,
    to: str,
    dtype: str | None = None,
    *,
    causal: bool = False,
    vae: Path | None = None,
    bits: int | None = None,
    reporter: Reporter | None = None,
) -> Converted:
    """Write a model in another layout; its architecture is recognised from the source.

    Args:
        source: bundled, a Hub id, a folder or a file.
        destination: new folder.
        to: hf, mlx or diffusers (ACE-Step, and the audio codec).
        dtype: float32, float16 or bfloat16; None keeps the source's.
        causal: the audio weights are of the v1.0 line.
        vae: the audio family's codec, to go into the same folder.
        bits: quantise to 4 or 8 bits an element (to mlx; not DiffRhythm).
        reporter: shows progress.

    Raises:
        ConfigError: options that the architecture does not have.
        ConvertError: the source does not fit, or the copy reads back with other values; nothing is written then.
    """
    path = expand_home(source)
    path = path if path.exists() else find_model(str(source), "").path
    check_destination(destination, {"SOURCE": path, "--vae": vae})
    convert: ConvertModel = resolve(_recognise_source(path).convert_model)
    result = convert(ModelConversion(path, destination, to, dtype, causal, vae, bits), reporter or Reporter())
    return replace(result, notes=(*result.notes, *note_lost_update(path, dtype)))


def _recognise_source(path: Path) -> FamilySpec:
    """Find the record of a source's architecture, by its config.json or else by its tensors.

    A folder of an unknown architecture counts as the first record's: its reader then says what is wrong.

    Raises:
        ConvertError: an adapter, or tensors that no architecture knows.
    """
    # A folder of parts, as a diffusers pipeline is, has no tensors of its own to tell by.
    if spec := next((spec for spec in SPECS if spec.owns_folder and resolve(spec.owns_folder)(path)), None):
        return spec
    config = read_optional_json(path / "config.json") if path.is_dir() else {}
    if "model_type" in config:
        return _find_owner(path) or SPECS[0]
    names = open_source(path).layout
    if any(".lora_" in name for name in names):
        raise ConvertError(f"{path}: an adapter; turn it into another format with `musiclora convert adapter`")
    if spec := _find_owner(path):
        return spec
    known = ", ".join(spec.architecture for spec in SPECS)
    found = join_problems([printable(name, 80) for name in sorted(names)[:4]])
    raise ConvertError(
        f"{path}: no model of a known architecture ({known}): {_explain_config(path, config)}; its tensors: {found}"
    )


def _explain_config(path: Path, config: Mapping[str, Any]) -> str:
    """Say what a source without a model_type needs, by the config.json that is there or beside it."""
    if config or (path / "config.json").is_file():
        return 'its config.json states no model_type; a GPT-2\'s states "gpt2"'
    if path.is_file() and (path.parent / "config.json").is_file():
        return "config.json is beside the file; give its folder"
    return "a GPT-2 needs a folder with config.json beside its weights"


def _find_owner(path: Path) -> FamilySpec | None:
    for spec in SPECS:
        is_source: IsModelSource = resolve(spec.is_model_source)
        if is_source(path):
            return spec
    return None
