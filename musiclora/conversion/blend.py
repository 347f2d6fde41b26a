"""The job behind `musiclora blend`: several adapters as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from musiclora.adapters import Adapter, base_of, check_base, empty_updates, training_songs
from musiclora.audio.style_files import STYLE_FILE, blended_arrays
from musiclora.conversion.cards import adapter_card, shared_licence
from musiclora.conversion.copy_indexes import blend_copy_indexes
from musiclora.conversion.merged import find_adapters, shared_tokenizer
from musiclora.conversion.verify import Converted, check_destination, check_update
from musiclora.convert.adapters.combine import combine_adapters, module_shapes
from musiclora.convert.adapters.combine_dora import WholePart, combine_with_dora
from musiclora.convert.adapters.lora import LoraSpec, check_rank, split_magnitudes
from musiclora.convert.adapters.lora_math import Part, compress_to_rank
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.files.atomic import atomic_folder
from musiclora.convert.files.fingerprint import compare_fingerprints
from musiclora.convert.files.safetensors_file import Arrays, write_safetensors
from musiclora.errors import ConfigError, ConvertError
from musiclora.families import FamilySpec, resolve
from musiclora.models import BaseModel, find_model, public_base
from musiclora.symbolic.decoding.songs_record import merge_songs_records

_KEPT_KEYS = {"format", "musiclora", "family", "fingerprints"}  # of the first adapter's record


def blend_adapters(
    adapters: Sequence[str], destination: Path, rank: int | None = None
) -> tuple[Converted, LoraSpec, float]:
    """Write several adapters with their strengths as one: exact, or compressed to a rank.

    Returns:
        The result, the settings, and the relative error of compressing (0 without a rank).

    Raises:
        ConfigError: a rank below 1; DoRA with a rank, or without its base at hand.
        ConvertError: adapters of different bases.
    """
    if rank is not None and rank < 1:
        raise ConfigError(f"--rank is {rank}; it must be at least 1")
    family, found = find_adapters(adapters, option="")
    _check_same_base(found)
    if whole := [a.path for a in found if a.embeddings]:
        raise ConvertError(
            f"{whole[0]}: holds embeddings, which cannot be blended; if they are the base's, leave them out with "
            f"`musiclora convert adapter {whole[0]} NEW --to peft --model BASE`"
        )
    blended = _blend_dora(found, family, rank) if any(a.magnitudes for a in found) else _blend_plain(found, rank)
    spec, state, error = blended.spec, blended.state, blended.error
    tokenizer = shared_tokenizer(found)
    bases = [public_base(a.base_model, a.record) for a in found]
    kind, base = next((known for known in bases if known[1]), ("local", ""))
    first = next((a.record for a in found if a.record.get("fingerprints")), found[0].record)
    record = {key: value for key, value in first.items() if key in _KEPT_KEYS}
    record |= {
        "base_model": base,
        "base_kind": kind,
        "blend": {"strengths": [a.strength for a in found], "error": error},
    }
    record |= merge_songs_records([a.record for a in found])
    if songs := training_songs(found):
        record["trained_on"] = sorted(songs)
    style = blended_arrays(found)
    licence = find_model(base).licence if kind == "bundled" else shared_licence([a.path for a in found])
    origin = f"Blended from {len(found)} adapters"
    check_destination(destination, {f"ADAPTER {a.path.name}": a.path for a in found})
    with atomic_folder(destination) as folder:
        write_peft(
            folder,
            spec,
            state,
            magnitudes=blended.magnitudes,
            base_model=base,
            record=record,
            readme=adapter_card(family, origin, record, base=base, licence=licence, dora=bool(blended.magnitudes)),
            extra_files=tokenizer,
            task_type=family.adapter_task_type,
            fan_in_fan_out=family.fan_in_fan_out,
        )
        if style is not None:
            write_safetensors(folder / STYLE_FILE, style, {"format": "pt"})
        indexes = blend_copy_indexes(found, folder)
        written = read_peft(folder)
        difference = check_update(blended.wanted, [(written.spec, written.state, 1.0)])
    added = style is not None and len(found) > 1
    notes = ["the style vectors were added up, each times its adapter's strength"] if added else []
    notes += [*indexes, *empty_updates(found, blended.base)]
    return Converted(destination, "peft", difference, notes=tuple(notes)), spec, error


@dataclass(frozen=True)
class _Blended:
    """One adapter in place of several.

    Attributes:
        spec, state, magnitudes: settings and arrays; magnitudes by module for DoRA.
        wanted: the matrices that the written adapter must hold.
        error: relative error of compressing, 0 without.
        base: whose weights DoRA needed; None where no adapter is one.
    """

    spec: LoraSpec
    state: Arrays
    wanted: list[Part]
    error: float = 0.0
    magnitudes: Arrays = field(default_factory=dict)
    base: BaseModel | None = None


def _blend_plain(adapters: Sequence[Adapter], rank: int | None) -> _Blended:
    """Sum LoRA adapters, and compress the sum to a rank where one is given."""
    parts: list[Part] = [(a.spec, a.state, a.strength) for a in adapters]
    spec, state = combine_adapters(parts)
    if rank is not None:
        check_rank(rank, module_shapes([state]), "--rank")
    if rank is None or rank >= spec.rank:
        return _Blended(spec, state, parts)
    spec, state, error = compress_to_rank(spec, state, rank)
    return _Blended(spec, state, [(spec, state, 1.0)], error)


def _blend_dora(adapters: Sequence[Adapter], family: FamilySpec, rank: int | None) -> _Blended:
    """Sum adapters with DoRA among them by means of their base's weights.

    Raises:
        ConfigError: a rank is given, or the base is not found.
        ConvertError: the base is not the recorded one, or the adapters do not fit it.
    """
    first = next(a.path for a in adapters if a.magnitudes)
    if rank is not None:
        raise ConfigError(f"--rank {rank}: {first} is a DoRA adapter, and a blend with one cannot be compressed")
    try:
        base = base_of(None, adapters)
    except ConfigError as error:
        raise ConfigError(
            f"{first}: a DoRA adapter is blended by means of its base, not found here: {error}"
        ) from error
    for adapter in adapters:
        check_base(adapter, base)
    tensors = resolve(family.read_checkpoint)(base.path).tensors()
    parts = [WholePart(a.spec, a.state, a.magnitudes, a.strength) for a in adapters]
    spec, joined = combine_with_dora(parts, tensors, conv1d=family.fan_in_fan_out)
    state, magnitudes = split_magnitudes(joined)
    return _Blended(spec, state, [(spec, state, 1.0)], magnitudes=magnitudes, base=base)


def _check_same_base(adapters: Sequence[Adapter]) -> None:
    """Refuse adapters whose recorded fingerprints of the base differ, or, where one has none, the bases' names."""
    recorded = [fingerprints for a in adapters if (fingerprints := a.record.get("fingerprints"))]
    names = sorted({adapter.base_model for adapter in adapters if adapter.base_model})
    if len(names) > 1 and len(recorded) < len(adapters):
        raise ConvertError(f"the adapters were trained on different bases: {', '.join(names)}")
    for other in recorded[1:]:
        if differing := compare_fingerprints(recorded[0], other):
            raise ConvertError(f"the adapters were trained on different bases: {', '.join(differing)} differ")
