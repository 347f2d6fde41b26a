"""The jobs behind `musiclora fuse` and `musiclora blend`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from musiclora.adapters import combine, parse_adapter
from musiclora.audio_merging import STYLE, blended_style, fuse_audio
from musiclora.convert.adapter import read_peft, state_modules, write_peft
from musiclora.convert.audio_modules import is_audio
from musiclora.convert.blend import Part, compress
from musiclora.convert.fingerprint import compare_fingerprints
from musiclora.convert.lora import LoraSpec
from musiclora.convert.tensors import write_safetensors
from musiclora.errors import ConfigError, ConvertError
from musiclora.fusing import Merged, fuse_symbolic
from musiclora.models import Adapter, base_of, check_base, find_adapter
from musiclora.results import Reporter
from musiclora.verification import Converted, beside, same_update, withdrawn_on_failure


def fuse(
    adapters: Sequence[str],
    destination: Path,
    model: str | None = None,
    to: str = "hf",
    dtype: str | None = None,
    backend: str = "auto",
    *,
    allow_base_mismatch: bool = False,
    reporter: Reporter | None = None,
) -> Converted:
    """Add adapters to their base and write one checkpoint; summed in float32, cast once.

    Args:
        adapters: each PATH or PATH:STRENGTH.
        destination: new folder.
        model: the base; None takes the one that the adapters record.
        to: hf or mlx.
        dtype: float32, float16 or bfloat16; None keeps the base's.
        backend: what computes the logits before and after.
        allow_base_mismatch: go on although the recorded base differs.
        reporter: shows how far it is.

    Raises:
        ConvertError: they do not fit, or in float32 the fused model computes something else than base and adapter.
    """
    found = _found(adapters, dora=True)
    merged = Merged.of(found)
    base = base_of(model, found)
    notes = [note for adapter in found for note in check_base(adapter, base, allow_base_mismatch)]
    if is_audio(state_modules(found[0].state)):
        result = fuse_audio(base, found, merged, destination, to, dtype, backend)
    else:
        result = fuse_symbolic(
            base, found, merged, destination, to, dtype, backend, allow_base_mismatch, reporter or Reporter()
        )
    return replace(result, notes=(*notes, *result.notes))


def blend(adapters: Sequence[str], destination: Path, rank: int | None = None) -> tuple[Converted, LoraSpec, float]:
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
    spec, state = combine([(a.spec, a.state, a.strength) for a in found])
    _same_base(found)
    error, compressed = 0.0, rank is not None and rank < spec.rank
    small_spec, small = spec, state
    if rank is not None and compressed:
        small_spec, small, error = compress(spec, state, rank)
    record = {
        key: value for key, value in found[0].record.items() if key in {"format", "musiclora", "family", "fingerprints"}
    }
    record |= {"base_model": found[0].base_model, "blend": {"strengths": [a.strength for a in found], "error": error}}
    extra = {name: data for name, data in beside(found[0].path).items() if name != "README.md"}
    symbolic = not is_audio(state_modules(state))
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
            write_safetensors(destination / STYLE, {"style": style}, {"format": "pt"})
        written = read_peft(destination)
        wanted: list[Part] = [(a.spec, a.state, a.strength) for a in found]
        target: list[Part] = [(small_spec, small, 1.0)] if compressed else wanted
        difference = same_update(target, [(written.spec, written.state, 1.0)])
    return Converted(destination, "peft", difference, notes=notes), small_spec, error


def _found(texts: Sequence[str], *, dora: bool = False) -> list[Adapter]:
    """The adapters, each with its strength, all of one family."""
    found = [find_adapter(*parse_adapter(text), dora=dora) for text in texts]
    if len({is_audio(state_modules(adapter.state)) for adapter in found}) > 1:
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
