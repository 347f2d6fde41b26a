"""The job behind `musiclora convert adapter`: recognise, write, read back, compare."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from musiclora.adapters import (
    Adapter,
    check_base,
    find_adapter,
    note_empty_update,
    refuse_model_folder,
    refuse_other_family,
)
from musiclora.audio.style_files import carry_style
from musiclora.conversion.cards import CARD, converted_card
from musiclora.conversion.compare import SAME_TOLERANCE
from musiclora.conversion.copy_indexes import carry_copy_index
from musiclora.conversion.merged import MergedAdapters
from musiclora.conversion.protocols import CompareAdapters, ReadCheckpoint
from musiclora.conversion.verify import Converted, check_destination, check_update, companion_files
from musiclora.convert.adapters.formats import READERS, SINGLE_FILES, WRITERS, read_any_file, read_any_folder
from musiclora.convert.adapters.lora import LoraSpec, check_state, join_magnitudes, state_keys, state_shapes
from musiclora.convert.adapters.lora_adapter import LoraAdapter, make_uniform
from musiclora.convert.adapters.lora_math import Dora, Part
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.files.atomic import atomic_file, atomic_folder
from musiclora.errors import ConfigError, ConvertError, join_problems
from musiclora.families import FamilySpec, resolve, spec_of_modules
from musiclora.formats import expand_home
from musiclora.models import BaseModel, find_model, locate_base, public_base


def convert_adapter(
    source: str,
    destination: Path,
    to: str,
    model: str | None = None,
    backend: str = "auto",
    *,
    allow_base_mismatch: bool = False,
) -> Converted:
    """Write an adapter in another format; the source's format is recognised from its files.

    Args:
        source: an adapter in any known format, or a run folder.
        destination: new folder; one new file for kohya and comfyui.
        to: peft, mlx-lm (symbolic), diffusers, kohya (audio) or comfyui (ACE-Step).
        model: its base, to check shapes, fingerprint and outputs; None takes the recorded one if it is local.
        backend: backend for the outputs.
        allow_base_mismatch: go on although the recorded base differs.

    Raises:
        ConfigError: a format that cannot hold adapters of this architecture.
        ConvertError: it does not fit, or the written adapter computes something else; nothing is written then.
    """
    path, adapter = read_adapter(source)
    family = spec_of_modules(adapter.ranks, str(path))
    if to not in family.adapter_formats:
        known = ", ".join(family.adapter_formats)
        raise ConfigError(f"{path}: is for {family.title}; it can become {known}, not {to}")
    if to in SINGLE_FILES and destination.suffix.lower() != ".safetensors":
        raise ConfigError(f"{destination}: --to {to} writes one file; give a name that ends in .safetensors")
    base = find_model(model) if model else _find_local_base(path, adapter)
    notes = [*adapter.notes, *_check_against_base(path, adapter, base, family, allow_base_mismatch)]
    notes += note_empty_update(str(path), adapter.state, adapter.magnitudes, base)
    if to == "mlx-lm" and not adapter.is_uniform:
        rank = max(adapter.ranks.values())
        notes.append(f"ranks or scales differed between modules; now rank {rank} for all, padded with zeros")
    if to == "peft" and not adapter.is_uniform:
        notes.append(
            "ranks or scales differ between modules (rank_pattern, alpha_pattern): PEFT 0.13 or later reads them"
        )
    adapter = _without_private_names(adapter)
    check_destination(destination, {"SOURCE": path, "--model": base.path if base else None})
    atomic_output = atomic_file if to in SINGLE_FILES else atomic_folder
    with atomic_output(destination) as output:
        _write_adapter(path, adapter, output, to, family)
        if output.is_dir():
            licence = base.licence if base else "unknown"
            dora, name = bool(adapter.magnitudes), adapter.base_model
            card = converted_card(path, family, adapter.record, base=name, licence=licence, kind=to, dora=dora)
            (output / CARD).write_text(card, encoding="utf-8")
        notes += [*carry_style(path, output), *carry_copy_index(path, adapter.record, output)]
        written = READERS[to](output)
        result = Converted(destination, to, check_update(_update_parts(adapter), _update_parts(written)))
        if adapter.magnitudes:
            _check_magnitudes(adapter, written, destination)
            notes.append("DoRA: the magnitude vectors are bit for bit the same")
        if base:
            compare: CompareAdapters = resolve(family.compare_adapters)
            found = compare(base.path, _merge_one(adapter), _merge_one(written), backend)
            found.refuse_above(SAME_TOLERANCE, destination)
            result = found.add_to(result)
    return dataclasses.replace(result, notes=tuple(notes))


def read_adapter(source: str) -> tuple[Path, LoraAdapter]:
    """Read an adapter in any format; a run folder stands for its best adapter.

    Raises:
        ConvertError: no known format, or an adapter that does not fit.
    """
    path = expand_home(source)
    if path.is_file():
        return path, read_any_file(path)
    if path.is_dir() and not (path / "adapter_config.json").is_file() and (path / "adapter-best").is_dir():
        path = path / "adapter-best"
    if not path.is_dir():
        path = find_adapter(source, option="").path
    refuse_model_folder(path, source, "")
    return path, read_any_folder(path)


def _find_local_base(path: Path, adapter: LoraAdapter) -> BaseModel | None:
    """Find the recorded base if that needs no network."""
    located = locate_base(path, adapter.base_model, adapter.record)
    return find_model(located[1]) if located and located[0] != "hub" else None


def _without_private_names(adapter: LoraAdapter) -> LoraAdapter:
    """Drop the path of a local base, which is nobody else's business, from an adapter that is to be written."""
    if public_base(adapter.base_model, adapter.record)[0] != "local":
        return adapter
    private = {"base_model": ""} if "base_model" in adapter.record else {}
    return dataclasses.replace(adapter, base_model="", record=adapter.record | private)


def _check_against_base(
    path: Path, adapter: LoraAdapter, base: BaseModel | None, family: FamilySpec, allow_mismatch: bool
) -> list[str]:
    """Check shapes, fingerprint and saved embeddings against the base if it is at hand; return notes for the user."""
    if base is None:
        if adapter.embeddings:
            raise ConvertError(f"{path}: holds embeddings; give --model, to see whether they are the base's")
        return []
    refuse_other_family(str(path), adapter.ranks, base)
    read_checkpoint: ReadCheckpoint = resolve(family.read_checkpoint)
    spec, state = make_uniform(adapter)
    state = join_magnitudes(state, adapter.magnitudes)
    check_state(state, state_shapes(spec, read_checkpoint(base.path).config.linear_shapes()), str(path))
    found = Adapter(path, 1.0, spec, state, adapter.base_model, adapter.record, embeddings=adapter.embeddings)
    return check_base(found, base, allow_mismatch)


def _write_adapter(path: Path, adapter: LoraAdapter, output: Path, to: str, family: FamilySpec) -> None:
    """Write an adapter in a format; PEFT's also takes the companion files of the source folder."""
    if to in WRITERS:
        WRITERS[to](output, adapter)
        return
    files = companion_files(path) if path.is_dir() else {}
    files.pop(CARD, None)
    write_peft(
        output,
        adapter.spec,
        adapter.state,
        base_model=adapter.base_model,
        rank_scales=adapter.rank_scales,
        magnitudes=adapter.magnitudes,
        record=adapter.record,
        task_type=family.adapter_task_type,
        fan_in_fan_out=family.fan_in_fan_out,
        extra_files=files,
        own_config=adapter.config,
    )


def _check_magnitudes(before: LoraAdapter, after: LoraAdapter, path: Path) -> None:
    """Refuse a difference between the magnitude vectors of two DoRA adapters."""
    names = {*before.magnitudes, *after.magnitudes}
    found, wanted = after.magnitudes, before.magnitudes
    if wrong := [n for n in sorted(names) if not np.array_equal(found.get(n, np.nan), wanted.get(n, np.nan))]:
        raise ConvertError(f"{path}: the magnitude vectors of {join_problems(wrong)} differ; it was withdrawn")


def _merge_one(adapter: LoraAdapter) -> MergedAdapters:
    """Express one adapter as an update of a base."""
    spec, state = make_uniform(adapter)
    if adapter.magnitudes:
        return MergedAdapters(None, {}, (Dora(spec, state, adapter.magnitudes),))
    return MergedAdapters(spec, state)


def _update_parts(adapter: LoraAdapter) -> list[Part]:
    """Make one part for each module, with its own rank and scale."""
    parts: list[Part] = []
    for module, rank in adapter.ranks.items():
        own = {key: adapter.state[key] for key in state_keys(module)}
        parts.append((LoraSpec(rank, adapter.scales[module] * rank, 0.0, (module,)), own, 1.0))
    return parts
