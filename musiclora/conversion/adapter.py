"""The job behind `musiclora convert adapter`: recognise, write, read back, compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.adapters import Adapter, check_base, find_adapter
from musiclora.audio.style import carry_style
from musiclora.conversion.compare import (
    LOGIT_TOLERANCE,
    SAME_TOLERANCE,
    compare_fused,
    compare_fused_velocities,
    compare_logits,
    compare_velocities,
)
from musiclora.conversion.merged import MergedAdapters
from musiclora.conversion.verify import Converted, companion_files, same_update, withdrawn_on_failure
from musiclora.convert.adapters.diffrhythm_modules import owns_modules
from musiclora.convert.adapters.diffusers import FILE, read_diffusers, write_diffusers
from musiclora.convert.adapters.kohya import is_kohya, read_kohya, write_kohya
from musiclora.convert.adapters.lora import LoraSpec, check_state, state_keys, state_shapes
from musiclora.convert.adapters.lora_math import Dora, Part
from musiclora.convert.adapters.lora_music_generation import read_lora_music_generation
from musiclora.convert.adapters.mlx_lm import is_mlx_lm, read_mlx_lm, write_mlx_lm
from musiclora.convert.adapters.peft import PeftAdapter, make_uniform, read_peft, write_peft
from musiclora.convert.files.safetensors_file import safetensors_header
from musiclora.convert.files.weight_files import read_json
from musiclora.convert.models.diffrhythm import read_diffrhythm
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.errors import ConfigError, ConvertError, join_problems
from musiclora.models import BaseModel, find_model

_FORMATS = {"symbolic": ("peft", "mlx-lm"), "audio": ("peft", "diffusers", "kohya")}
_READERS: dict[str, Callable[[Path], PeftAdapter]] = {
    "peft": read_peft,
    "mlx-lm": read_mlx_lm,
    "diffusers": read_diffusers,
    "kohya": read_kohya,
}


def convert_adapter(
    source: str,
    destination: Path,
    to: str,
    model: str | None = None,
    backend: str = "auto",
    *,
    allow_base_mismatch: bool = False,
) -> Converted:
    """Write an adapter in another format, recognising the source's from its files.

    Args:
        source: an adapter of PEFT, mlx-lm, diffusers, kohya or the audio seed, or a run folder.
        destination: new folder; for kohya one new file.
        to: peft, mlx-lm (symbolic), diffusers or kohya (audio).
        model: its base, for the check of shapes, fingerprint and logits; None takes the recorded one where it is local.
        backend: what computes the logits.
        allow_base_mismatch: go on although the recorded base differs.

    Raises:
        ConfigError: a format that the adapter's family has no use for.
        ConvertError: it does not fit, or the written adapter computes something else; nothing is left behind then.
    """
    path, adapter = read_adapter(source)
    family = "audio" if owns_modules(adapter.ranks) else "symbolic"
    if to not in _FORMATS[family]:
        raise ConfigError(f"{path}: is for the {family} family; it can become {', '.join(_FORMATS[family])}, not {to}")
    spec, state = make_uniform(adapter)
    base = find_model(model) if model else _local_base(adapter.base_model)
    notes: list[str] = []
    if base:
        checkpoint = read_diffrhythm(base.path) if family == "audio" else read_checkpoint(base.path)
        check_state(state, state_shapes(spec, checkpoint.config.linear_shapes()), str(path))
        found = Adapter(path, 1.0, spec, state, adapter.base_model, adapter.record)
        notes += check_base(found, base, allow_base_mismatch)
    if to == "mlx-lm" and not adapter.is_uniform:
        notes.append(f"ranks or scales differed between modules; now rank {spec.rank} for all, padded with zeros")
    with withdrawn_on_failure(destination):
        _write(path, adapter, destination, to, family)
        notes += carry_style(path, destination)
        written = _READERS[to](destination)
        difference = same_update(_parts(adapter), _parts(written))
        if adapter.magnitudes:
            _same_magnitudes(adapter, written, destination)
            notes.append("DoRA: the magnitude vectors are bit for bit the same")
        sides = (_side(adapter), _side(written))
        checked = _OUTPUTS[family](base, *sides, backend, destination) if base else {}
    return Converted(destination, to, difference, notes=tuple(notes), **checked)


def _same_magnitudes(before: PeftAdapter, after: PeftAdapter, path: Path) -> None:
    """Refuse a difference between what two DoRA adapters say of the lengths of rows."""
    names = {*before.magnitudes, *after.magnitudes}
    found, wanted = after.magnitudes, before.magnitudes
    if wrong := [n for n in sorted(names) if not np.array_equal(found.get(n, np.nan), wanted.get(n, np.nan))]:
        raise ConvertError(f"{path}: the magnitude vectors of {join_problems(wrong)} differ; it was withdrawn")


def _side(adapter: PeftAdapter) -> MergedAdapters:
    """An adapter as what it adds to a base."""
    spec, state = make_uniform(adapter)
    if adapter.magnitudes:
        return MergedAdapters(None, {}, (Dora(spec, state, adapter.magnitudes),))
    return MergedAdapters(spec, state)


def _same_logits(
    base: BaseModel, before: MergedAdapters, after: MergedAdapters, backend: str, path: Path
) -> dict[str, Any]:
    """What to report of the logits with both adapters; refuses a difference."""
    if before.dora:
        found = compare_fused(base, before, after, backend)
    else:
        found = compare_logits(base, (before.spec, before.state), base, (after.spec, after.state), backend)
    found.refuse_above(LOGIT_TOLERANCE, path)
    return {"logit_difference": found.difference, "largest_logit": found.largest, "backend": found.backend}


def _same_velocity(
    base: BaseModel, before: MergedAdapters, after: MergedAdapters, backend: str, path: Path
) -> dict[str, Any]:
    """What to report of the velocity with both adapters; refuses a difference."""
    if before.spec is None or after.spec is None:
        found = compare_fused_velocities(base, before, after, backend)
    else:
        first, second = (before.spec, before.state), (after.spec, after.state)
        found = compare_velocities(base.path, first, base.path, second, backend)
    found.refuse_above(SAME_TOLERANCE, path)
    return {"velocity_difference": found.difference, "largest_velocity": found.largest, "backend": found.backend}


_OUTPUTS = {"symbolic": _same_logits, "audio": _same_velocity}


def read_adapter(source: str) -> tuple[Path, PeftAdapter]:
    """Read an adapter, whichever format it is in; a run folder stands for its best adapter.

    Raises:
        ConvertError: none that is known, or one that does not fit.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path, _read_file(path)
    if path.is_dir() and not (path / "adapter_config.json").is_file() and (path / "adapter-best").is_dir():
        path = path / "adapter-best"
    if not path.is_dir():
        path = find_adapter(source, dora=True, option="").path
    config = path / "adapter_config.json"
    if not config.is_file() and (path / FILE).is_file():
        return path, read_diffusers(path)
    return path, read_mlx_lm(path) if config.is_file() and is_mlx_lm(read_json(config)) else read_peft(path)


def _read_file(path: Path) -> PeftAdapter:
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin"):
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
    return read_diffusers(path)


def _write(
    path: Path,
    adapter: PeftAdapter,
    destination: Path,
    to: str,
    family: str,
) -> None:
    common: dict[str, Any] = {
        "base_model": adapter.base_model,
        "record": adapter.record,
        "magnitudes": adapter.magnitudes,
    }
    if to == "mlx-lm":  # knows one rank and one scale
        write_mlx_lm(destination, *make_uniform(adapter), **common)
        return
    spec, state = adapter.spec, adapter.state
    common["own"] = adapter.own
    if to == "kohya":
        write_kohya(destination, spec, state, **common)
    elif to == "diffusers":
        write_diffusers(destination, spec, state, **common)
    else:
        files = companion_files(path) if path.is_dir() else {}
        symbolic = family == "symbolic"
        write_peft(
            destination,
            spec,
            state,
            task_type="CAUSAL_LM" if symbolic else None,
            fan_in_fan_out=symbolic,
            readme=files.pop("README.md", b"").decode("utf-8", "replace"),
            extra_files=files,
            **common,
        )


def _parts(adapter: PeftAdapter) -> list[Part]:
    """One part for each module, with its own rank and scale."""
    parts: list[Part] = []
    for module, rank in adapter.ranks.items():
        own = {key: adapter.state[key] for key in state_keys(module)}
        parts.append((LoraSpec(rank, adapter.scales[module] * rank, 0.0, (module,)), own, 1.0))
    return parts


def _local_base(name: str) -> BaseModel | None:
    """The recorded base where it is at hand without the network."""
    try:
        return find_model(name) if name == "bundled" or (name and Path(name).expanduser().is_dir()) else None
    except ConfigError:
        return None
