"""`musiclora blend`: several adapters as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from musiclora.adapters import Adapter, combine_adapters, find_adapter, parse_adapter
from musiclora.audio.style import STYLE_FILE, blended_style
from musiclora.conversion.verify import Converted, companion_files, same_update, withdrawn_on_failure
from musiclora.convert.adapters.diffrhythm_modules import owns_modules
from musiclora.convert.adapters.lora import LoraSpec, state_modules
from musiclora.convert.adapters.lora_math import Part, compress_to_rank
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.files.fingerprint import compare_fingerprints
from musiclora.convert.files.safetensors_file import write_safetensors
from musiclora.errors import ConfigError, ConvertError


def blend_adapters(
    adapters: Sequence[str], destination: Path, rank: int | None = None
) -> tuple[Converted, LoraSpec, float]:
    """Write several adapters with their strengths as one: exact, or compressed to a rank.

    Returns:
        What was written, its settings, and the relative error of compressing (0 without a rank).

    Raises:
        ConfigError: a rank below 1.
        ConvertError: adapters of different bases.
    """
    if rank is not None and rank < 1:
        raise ConfigError(f"--rank is {rank}; it must be at least 1")
    found = _found(adapters)
    spec, state = combine_adapters([(a.spec, a.state, a.strength) for a in found])
    _same_base(found)
    error, compressed = 0.0, rank is not None and rank < spec.rank
    small_spec, small = spec, state
    if rank is not None and compressed:
        small_spec, small, error = compress_to_rank(spec, state, rank)
    record = {
        key: value for key, value in found[0].record.items() if key in {"format", "musiclora", "family", "fingerprints"}
    }
    record |= {"base_model": found[0].base_model, "blend": {"strengths": [a.strength for a in found], "error": error}}
    extra = {name: data for name, data in companion_files(found[0].path).items() if name != "README.md"}
    symbolic = not owns_modules(state_modules(state))
    notes: tuple[str, ...] = ()
    if (style := blended_style(found)) is not None:
        notes = ("the style vectors were added up, each times its adapter's strength",) if len(found) > 1 else ()
    with withdrawn_on_failure(destination):
        write_peft(
            destination,
            small_spec,
            small,
            base_model=found[0].base_model,
            record=record,
            extra_files=extra,
            task_type="CAUSAL_LM" if symbolic else None,
            fan_in_fan_out=symbolic,
        )
        if style is not None:
            write_safetensors(destination / STYLE_FILE, {"style": style}, {"format": "pt"})
        written = read_peft(destination)
        wanted: list[Part] = [(a.spec, a.state, a.strength) for a in found]
        target: list[Part] = [(small_spec, small, 1.0)] if compressed else wanted
        difference = same_update(target, [(written.spec, written.state, 1.0)])
    return Converted(destination, "peft", difference, notes=notes), small_spec, error


def _found(texts: Sequence[str], *, dora: bool = False) -> list[Adapter]:
    """The adapters, each with its strength, all of one family."""
    found = [find_adapter(*parse_adapter(text), dora=dora) for text in texts]
    if len({owns_modules(state_modules(adapter.state)) for adapter in found}) > 1:
        raise ConvertError("these adapters are for different families: some for the audio model, some for the symbolic")
    return found


def _same_base(found: Sequence[Adapter]) -> None:
    names = sorted({a.base_model for a in found if a.base_model})
    if len(names) > 1:
        raise ConvertError(f"the adapters were trained on different bases: {', '.join(names)}")
    prints = [a.record["fingerprints"] for a in found if isinstance(a.record.get("fingerprints"), dict)]
    for other in prints[1:]:
        if differing := compare_fingerprints(prints[0], other):
            raise ConvertError(f"the adapters were trained on different bases: {', '.join(differing)} differ")
